"""The benchmarks of this package, one file each; every file here defines its record as BENCHMARK."""
