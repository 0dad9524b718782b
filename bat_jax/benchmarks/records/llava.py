"""Any file of LLaVA conversations: the first question of each is asked, as the release's scripts ask it.

A conversation is multiple choice where its lines have letters and its answer names one of them; any other is open, and
right only where the answer's text is the same.
"""

import dataclasses

from bat_jax.benchmarks.file_benchmark import FileBenchmark, number_of_images
from bat_jax.benchmarks.letters import AnswerKey, release_official
from bat_jax.benchmarks.question_prompts import release_question
from bat_jax.benchmarks.record import OTHER, SubTask
from bat_jax.benchmarks.samples import Sample, read_conversation


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LlavaConversations(FileBenchmark):
    """Conversations of any categories, scored as two sub-tasks."""

    def answer_key(self, sample: Sample) -> AnswerKey:
        try:
            return self.choice(sample, is_multi_answer=False)
        except ValueError:
            return AnswerKey(benchmark=self.name, truth=sample.answer, options=(), answer_form="open")

    def category_of(self, sample: Sample) -> str:
        return "open" if self.answer_key(sample).answer_form == "open" else "multiple choice"


BENCHMARK = LlavaConversations(
    name="llava",
    title="LLaVA conversations",
    aliases=("llava_conversations",),
    subtasks=(
        SubTask(abbreviation="choice", category="multiple choice", group=OTHER),
        SubTask(abbreviation="open", category="open", group=OTHER),
    ),
    parse=lambda fields, number: read_conversation(fields, number, category=()),
    prompts={"release": release_question},
    official=release_official,
    lets_several=True,
    breakdowns={"Category": lambda task: task.facts["category"] or None, "Images shown": number_of_images},
    description="The conversations of a LLaVA JSON file.",
    how_to_get="a folder with one JSON file of conversations and its images",
)
