"""Check the paper's published numbers against each other and print what agrees, as Markdown.

    python -m experiments.audit_paper
    python -m experiments.audit_paper --output=docs/paper_audit.md

docs/paper_audit.md is what it wrote last.
"""

import pathlib

from absl import flags

from bat_jax.io.output_files import write_text
from bat_jax.report.paper_audit import report
from bat_jax.study.paper.audit import audit
from . import cli

OUTPUT = flags.DEFINE_string("output", None, "Also write the report to this file (replaced whole).")


def main(_: list[str]) -> None:
    """Audit, print, write."""
    text = report(audit())
    print(text, end="")
    if OUTPUT.value:
        write_text(pathlib.Path(OUTPUT.value), text)


if __name__ == "__main__":
    cli.run(main)
