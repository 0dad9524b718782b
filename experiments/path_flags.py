"""The flag that lets data name files anywhere, the same for every command that opens files which data names."""

from absl import flags

ALLOW_OUTSIDE_PATHS = flags.DEFINE_bool(
    "allow_outside_paths",
    False,
    "Also take images that data names outside of its folder: by absolute names, with .., or by links that lead "
    "out. Such data decides which files of this machine are read.",
)
