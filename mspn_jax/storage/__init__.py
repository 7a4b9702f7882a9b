"""Files on a disk and in a bucket: paths, whole files, one run a folder, copies of folders."""
