"""The adapter for lmms-eval, run by the installed lmms-eval itself: its registry, its evaluator, its requests."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.tiny_model import SCALES, write_tiny_checkpoint

pytest.importorskip("lmms_eval")

QUESTIONS = ("Any boats?", "How many roads cross the river in the north of the picture?")
NEW = 9
YAML = """
task: two_samples
dataset_path: parquet
dataset_kwargs:
  data_files: {{test: {folder}/samples.parquet}}
  cache_dir: {folder}/cache
test_split: test
output_type: generate_until
doc_to_visual: image
doc_to_text: question
doc_to_target: answer
generation_kwargs: {{max_new_tokens: {new}, temperature: 0, top_p: 1.0, num_beams: 1, do_sample: false}}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


def pixels(seed, height=150, width=230):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("lmms") / "checkpoint")


@pytest.fixture(scope="module")
def adapter():
    """lmms-eval imports torch: only the process that runs these tests shall."""
    from bat_jax.evals.lmms import adapter

    return adapter


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """The model as lmms-eval makes it of --model, --model_args and its other flags' defaults."""
    from lmms_eval.models import get_model

    given = {"batch_size": 1, "max_batch_size": None, "device": None}
    arguments = f"checkpoint={checkpoint},fidelity=paper,budgets=[6,20],questions_at_once=2"
    return get_model("bat_jax").create_from_arg_string(arguments, given)


@pytest.fixture
def model(loaded, monkeypatch):
    """The loaded model with its calls of `encode` counted."""
    encode = loaded.model.encode
    loaded.num_encoded = 0

    def counted(*arguments, **options):
        loaded.num_encoded += 1
        return encode(*arguments, **options)

    monkeypatch.setattr(loaded.model, "encode", counted)
    return loaded


def requests_for(model, rows, output_type="generate_until"):
    """Return lmms-eval's requests for rows of (what doc_to_visual gives, question, generation_kwargs)."""
    from lmms_eval.api.instance import Instance

    model.task_dict["made"] = {"test": [visuals for visuals, _, _ in rows]}
    return [
        Instance(
            request_type=output_type,
            arguments=(text, generation, lambda document: document, index, "made", "test"),
            idx=0,
            metadata={"task": "made", "doc_id": index, "repeats": 1},
        )
        for index, (_, text, generation) in enumerate(rows)
    ]


def texts(model, rows):
    return [result.text for result in model.generate_until(requests_for(model, rows))]


def test_lmms_eval_finds_the_model_by_name_and_loads_jax_and_torch_for_no_other():
    code = "import sys; from lmms_eval import models; print(models.get_model_manifest('bat_jax').simple_class_path)"
    code += "; assert not {'jax', 'torch'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bat_jax.evals.lmms.adapter.BatJax"]


def test_lmms_evals_evaluator_gets_the_answers_of_scene_ask(loaded, tmp_path):
    import datasets
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    images = [pixels(seed) for seed in (0, 1)]
    assert loaded.model.cfg.compressor.budgets == (6, 20)
    answers = [
        loaded.model.encode(image).ask(question, max_new_tokens=NEW)
        for image, question in zip(images, QUESTIONS, strict=True)
    ]
    expected = [answer.text for answer in answers]
    assert all(expected) and expected[0] != expected[1]
    rows = {
        "image": [Image.fromarray(image) for image in images],
        "question": list(QUESTIONS),
        "answer": [expected[0], "no model says this"],
    }
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(tmp_path / "samples.parquet")
    (tmp_path / "two_samples.yaml").write_text(YAML.format(folder=tmp_path, new=NEW))
    results = simple_evaluate(
        model=loaded,
        tasks=["two_samples"],
        task_manager=TaskManager("WARNING", str(tmp_path), include_defaults=False, model_name="bat_jax"),
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["two_samples"], key=lambda sample: sample["doc_id"])
    assert [sample["filtered_resps"] for sample in samples] == [[text] for text in expected]
    assert results["results"]["two_samples"]["exact_match,none"] == 0.5
    counts = [sample["token_counts"][0] for sample in samples]
    assert [count["input_tokens"] for count in counts] == [answer.prompt_tokens for answer in answers]
    assert [count["output_tokens"] for count in counts] == [answer.token_ids.size for answer in answers]


def test_a_picture_is_encoded_once_and_answers_keep_the_order_of_requests(model):
    first, second = (Image.fromarray(pixels(seed)) for seed in (0, 1))
    asked = [(first, "Any boats?"), (second, "Any boats?"), (first.copy(), "Any roads?"), (second, "Any trees?")]
    answers = texts(model, [([image], text, {"max_new_tokens": NEW}) for image, text in asked])
    assert model.num_encoded == 2
    scenes = {id(image): model.model.encode(np.asarray(image)) for image, _ in asked}
    assert answers == [scenes[id(image)].ask(text, max_new_tokens=NEW).text for image, text in asked]


def test_a_pictures_questions_with_the_same_options_are_asked_together_and_answered_as_one_by_one(model):
    first, second = (Image.fromarray(pixels(seed)) for seed in (0, 1))
    greedy, sampled = {"max_new_tokens": NEW}, {"max_new_tokens": NEW, "temperature": 3.0}
    asked = [
        (first, "Any boats?", greedy),
        (second, "Any boats?", greedy),
        (first, "Any roads?", sampled),
        (first, "How many trees stand by the river?", greedy | {"until": ["never said"]}),
        (first, "Any cars?", sampled),
    ]
    calls = model.model.stages.num_calls.copy()
    answers = texts(model, [([image], text, generation) for image, text, generation in asked])
    assert model.model.stages.num_calls["questions"] - calls["questions"] == 3
    scenes = {id(image): model.model.encode(np.asarray(image)) for image in (first, second)}
    for answer, (image, text, generation) in zip(answers, asked, strict=True):
        options = {name: value for name, value in generation.items() if name != "until"}
        assert answer == scenes[id(image)].ask(text, **options).text


def test_several_images_go_where_the_question_has_them(model):
    images = [Image.fromarray(pixels(seed)) for seed in (0, 1)]
    scenes = [model.model.encode(np.asarray(image)) for image in images]
    places = "What is in <image> but not in <image>?"
    rows = [(images, places, {"max_new_tokens": NEW}), (images, "<image>Compare", {"max_new_tokens": NEW})]
    expected = [model.model.ask(scenes, text, max_new_tokens=NEW).text for text in (places, "Compare")]
    assert texts(model, rows) == expected


def test_files_and_images_of_other_modes_are_read_as_their_rgb(model, tmp_path):
    grey = Image.fromarray(pixels(0)).convert("L")
    grey.save(tmp_path / "grey.png")
    generation = {"max_new_tokens": NEW}
    visuals = ([grey], [grey.convert("RGB")], [str(tmp_path / "grey.png")])
    answers = texts(model, [(visual, "Any boats?", generation) for visual in visuals])
    assert len(set(answers)) == 1
    assert model.num_encoded == 2  # the pixels and the file


def test_an_answer_ends_before_the_first_until(model):
    image = Image.fromarray(pixels(0))
    rows = [([image], "Any boats?", {"max_new_tokens": NEW})]
    (whole,) = texts(model, rows)
    end = whole[len(whole) // 2]
    (ended,) = texts(model, [([image], "Any boats?", {"max_new_tokens": NEW, "until": ["", "never said", end]})])
    assert ended == whole[: whole.index(end)].strip() != whole


@pytest.mark.parametrize(
    ("generation", "options"),
    [
        ({}, {"max_new_tokens": 64}),
        ({"temperature": 0.0, "top_p": 0, "num_beams": 1}, {"max_new_tokens": 64}),
        ({"temperature": 0.7, "do_sample": False, "max_new_tokens": 9}, {"max_new_tokens": 9}),
        ({"temperature": 0.7, "top_p": None}, {"max_new_tokens": 64, "temperature": 0.7, "top_p": 1.0}),
        ({"do_sample": True, "top_p": 0.9}, {"max_new_tokens": 64, "temperature": 1.0, "top_p": 0.9}),
    ],
)
def test_sampling_is_used_only_where_generation_kwargs_ask_for_it(adapter, generation, options):
    assert adapter.read_generation(generation, "a task") == (options, ())


def test_repeats_of_a_sampled_question_differ_and_those_of_a_greedy_one_do_not(model):
    image = Image.fromarray(pixels(0))
    for temperature, distinct in ((5.0, 3), (0.0, 1)):
        (request,) = requests_for(model, [([image], "Any boats?", {"temperature": temperature, "max_new_tokens": NEW})])
        assert len({result.text for result in model.generate_until([request] * 3)}) == distinct


def test_a_failing_question_is_wrong_and_the_others_are_answered(model):
    image = Image.fromarray(pixels(0))
    generation = {"max_new_tokens": NEW}
    long, empty, fine = "boat " * 900, "", "Any boats?"
    answers = texts(model, [([image], text, generation) for text in (long, fine, empty)])
    assert (answers[0], answers[2]) == ("", "")
    assert answers[1] == model.model.encode(np.asarray(image)).ask(fine, max_new_tokens=NEW).text
    with pytest.raises(ValueError, match=r"all 1 questions failed, .*document 0: .*positions"):
        texts(model, [([image], long, generation)])


def test_a_damaged_picture_and_no_memory_are_wrong_answers_and_the_evaluation_goes_on(model, tmp_path, monkeypatch):
    Image.fromarray(pixels(1)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    generation = {"max_new_tokens": NEW}
    fine, too_large = Image.fromarray(pixels(0)), Image.fromarray(pixels(2))
    encode = model.model.encode

    def out_of_memory(picture, **options):
        if np.array_equal(picture, pixels(2)):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return encode(picture, **options)

    monkeypatch.setattr(model.model, "encode", out_of_memory)
    shown = [Image.open(tmp_path / "cut.png"), str(tmp_path / "missing.png"), too_large, fine]
    answers = texts(model, [([image], "Any boats?", generation) for image in shown])
    assert answers == ["", "", "", encode(pixels(0)).ask("Any boats?", max_new_tokens=NEW).text]


@pytest.mark.parametrize(
    ("visuals", "generation", "message"),
    [
        (["clip.MP4"], {}, "document 1: gives the video clip.MP4"),
        ([{"array": np.zeros(3), "sampling_rate": 16000}], {}, "document 1: gives dict"),
        ([Image.new("I;16", (64, 64))], {}, "document 1: gives an image of mode I;16"),
        ([], {}, "document 1: has no image"),
        (None, {}, "document 1: has no image"),
        ([Image.new("RGB", (64, 64))], {"num_beams": 5}, "document 1: num_beams=5"),
    ],
)
def test_what_the_model_cannot_do_is_said_before_anything_is_encoded(model, visuals, generation, message):
    rows = [([Image.fromarray(pixels(0))], "Any boats?", {}), (visuals, "Any boats?", generation)]
    with pytest.raises(ValueError, match=message):
        texts(model, rows)
    assert model.num_encoded == 0


@pytest.mark.parametrize("output_type", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_requests_are_refused_by_name(model, output_type):
    requests = requests_for(model, [([], "Any boats?", {})], output_type)
    with pytest.raises(NotImplementedError, match=f"made: asks for {output_type}; bat_jax does generate_until alone"):
        getattr(model, output_type)(requests)


def arguments_of(text):
    from lmms_eval.utils import simple_parse_args_string

    return simple_parse_args_string(text)


def test_model_args_reach_the_config_as_lmms_eval_reads_them(adapter, checkpoint):
    text = f"checkpoint={checkpoint},budgets=[3],scales=[112],fidelity=paper,importance_layer=-1"
    text += ",coord_scale=1,selection=topk,mask_padding=false,images=first"
    text += f",scene_cache={checkpoint.parent}/scenes,scene_cache_gb=0.5,mesh=[data=1,model=1]"
    model = adapter.BatJax(**arguments_of(text), batch_size="1").model
    cfg, cache = model.cfg, model.encoder.scene_store.cache
    assert [(scale.size_px, scale.budget) for scale in cfg.compressor.scales] == [(112, 3)]
    assert (cfg.compressor.fidelity, cfg.compressor.importance_layer, cfg.compressor.coord_scale) == ("paper", -1, 1)
    assert (cfg.compressor.selection, cfg.compressor.mask_padding, cfg.prompt.images) == ("topk", False, "first")
    assert model.stages.mesh.shape == {"data": 1, "heads": 1, "copies": 1}
    assert (cache.directory, cache.max_bytes) == (checkpoint.parent / "scenes", 5 * 10**8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fidelity=paper", "checkpoint=DIR"),
        ("checkpoint=nowhere", "checkpoint=nowhere: does not exist"),
        ("checkpoint={},budgets=[3]", f"budgets=.*for the 2 scales .{SCALES[0].size_px}, "),
        ("checkpoint={},budgets=[3,x]", "budgets=.*whole numbers"),
        ("checkpoint={},budgets=[3,0]", "budget"),
        ("checkpoint={},scales=[112]", "scales=.*give budgets too"),
        ("checkpoint={},fidelity=exact", "fidelity='exact'"),
        ("checkpoint={},selction=topk", "selction"),
        ("checkpoint={},importance_layer=-1.5", "importance_layer=-1.5"),
        ("checkpoint={},seed=x", "seed=x"),
        ("checkpoint={},scene_cache=scenes,scene_cache_gb=much", "scene_cache_gb=much"),
        ("checkpoint={},scene_cache=scenes,scene_cache_gb=0", "scenes: a limit of 0 bytes"),
        ("checkpoint={},questions_at_once=0", "questions_at_once=0: must be a whole number from 1"),
        ("checkpoint={},mesh=[data=2,model=4]", "mesh=data=2,model=4: needs 8 devices"),
        ("checkpoint={},mesh=rows=2", "mesh=rows=2: need axes"),
        ("checkpoint={},batch_size=8", "batch_size=8.*questions_at_once"),
        ("checkpoint={},device=cuda", "device=cuda: JAX chooses"),
    ],
)
def test_a_bad_model_argument_is_named_before_weights_are_read(adapter, checkpoint, monkeypatch, text, message):
    monkeypatch.setattr(adapter.BatModel, "load", lambda *_, **__: pytest.fail("read weights"))
    with pytest.raises(ValueError, match=message):
        adapter.BatJax(**arguments_of(text.format(checkpoint)))


def test_one_process_alone_may_run(adapter, checkpoint, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        adapter.BatJax(str(checkpoint))
