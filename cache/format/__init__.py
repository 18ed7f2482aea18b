"""What format 1 is on disk: layout, manifest, seal and digests, in Zarr and in HDF5."""
