"""Print what UHR-BAT-7B costs, computed from its config, beside the paper's Table 4 and its memory claims, as Markdown.

    python -m experiments.cost
    python -m experiments.cost --question_tokens=64 --answer_tokens=8 --output=docs/cost.md

docs/cost.md is what it wrote last.
"""

import pathlib

from absl import flags

from bat_jax.engine import cost
from bat_jax.io.output_files import write_text
from bat_jax.report.cost_page import report
from . import cli

PREFIX = flags.DEFINE_integer("prefix_tokens", 14, "Text tokens before the image.", lower_bound=1)
QUESTION = flags.DEFINE_integer("question_tokens", 64, "Text tokens after the image.", lower_bound=1)
ANSWER = flags.DEFINE_integer("answer_tokens", 8, "Tokens of the answer.", lower_bound=1)
OUTPUT = flags.DEFINE_string("output", None, "Also write the report to this file (replaced whole).")


def main(_: list[str]) -> None:
    """Compute, print, write."""
    text = report(cost.Text(prefix=PREFIX.value, question=QUESTION.value, answer=ANSWER.value))
    print(text, end="")
    if OUTPUT.value:
        write_text(pathlib.Path(OUTPUT.value), text)


if __name__ == "__main__":
    cli.run(main)
