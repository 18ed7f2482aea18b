# medal on a CPU. Build and run, with the current folder as the place for data, caches and runs:
#   docker build --tag medal .
#   docker run --rm --volume "$PWD:/data" --user "$(id -u):$(id -g)" medal demo --quick
FROM python:3.11.13-slim-bookworm

# uv can take PyTorch without CUDA, which saves several GB.
RUN pip install --no-cache-dir uv==0.13.9

COPY . /src
RUN uv pip install --system --no-cache --torch-backend cpu "/src[demo,dicom,export]"

# Anybody may run it (--user): home is a folder that every user can write to.
RUN mkdir --mode 1777 /data /home/medal
ENV HOME=/home/medal
WORKDIR /data
USER 1000:1000

ENTRYPOINT ["medal"]
CMD ["--help"]
