"""Check the paper's published numbers against each other and print what agrees, as Markdown.

python -m experiments.audit_paper [--output=docs/paper_audit.md]
"""

import pathlib

from absl import flags

from bat_jax.io.output_files import staged_file
from bat_jax.study.paper.audit import audit, report
from experiments import cli

OUTPUT = flags.DEFINE_string("output", None, "Also write the report to this file (replaced whole).")


def main(_: list[str]) -> None:
    """Audit, print, write."""
    text = report(audit())
    print(text, end="")
    if OUTPUT.value:
        with staged_file(pathlib.Path(OUTPUT.value)) as stage:
            stage.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
