"""Coverage-guided fuzzing of the manifest parser with atheris, where that can be installed (`pip install atheris`).

    python tests/fuzz_manifest.py -max_total_time=60 FOLDER       options and a folder of found cases are libFuzzer's

Anything but an error of our own tree, or a manifest that survives being written again, ends it and keeps the case.
"""

import sys

import atheris

with atheris.instrument_imports():
    from medal.cache.errors import CacheError
    from medal.cache.format.manifest import parse_manifest
    from medal.cache.format.seal import parse_seal


def one_input(data: bytes) -> None:
    for parse in (parse_manifest, parse_seal):
        try:
            parsed = parse(data)
        except CacheError:
            continue
        if parse(parsed.to_bytes()) != parsed:
            raise RuntimeError("it does not read back as it was")


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
