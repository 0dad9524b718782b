"""The house order: what a file may import, read from the source with ast."""

import ast
import functools
import pathlib
import re

import pytest

from bat_jax.config import DecoderConfig, MlpConfig, ScaleEmbeddingConfig, VisionConfig
from bat_jax.config.networks import NetworkConfig

ROOT = pathlib.Path(__file__).parents[1]
# A file imports from its own part and from the parts before it.
ORDER = ["typing", "registry", "text_files", "progress", "config", "ops", "nn", "compress", "model", "engine", "io"]
ORDER += ["scene_store", "encoding", "asking", "pipeline", "runs", "hosts", "data", "mini.world", "benchmarks", "train"]
ORDER += ["fit", "mini.curriculum", "evals", "study.paper", "study.measured", "report", "serving"]
CORE = ("typing", "registry", "text_files", "config", "ops", "nn", "compress", "model", "engine")
FILES = sorted((ROOT / "bat_jax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))


def name_of(path):
    """Return a file's dotted name: bat_jax.ops.rope, bat_jax.ops for its __init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path) for path in FILES}


def part_of(module):
    """Return the part of the house a dotted bat_jax name belongs to; "" for a package that holds nothing of its own."""
    names = module.split(".")[1:]
    pair = ".".join(names[:2])
    return pair if pair in ORDER or names[:1] in (["mini"], ["study"]) else "".join(names[:1])


@functools.cache
def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@functools.cache
def imports(path):
    """Return every module that a file imports anywhere, inside functions too; `from p import m` counts as p.m."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert path in EXPERIMENTS, f"{path}:{node.lineno}: relative import"
                continue
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found.update(argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))
    return frozenset(found)


def house_imports(path):
    return {module for module in imports(path) if module.split(".")[0] == "bat_jax"}


def each(files):
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(ROOT).as_posix())


def test_there_is_a_house_to_look_at():
    names = {name_of(path) for path in FILES}
    assert {"bat_jax.config", "bat_jax.ops.rope", "bat_jax.compress.preserve_merge", "bat_jax.model"} <= names
    assert "bat_jax.typing" in house_imports(ROOT / "bat_jax" / "ops" / "rope.py")
    assert "bat_jax.model" in house_imports(ROOT / "bat_jax" / "encoding.py"), "from bat_jax import model"


def test_every_part_has_its_place_in_the_order():
    parts = {part_of(name_of(path)) for path in FILES} - {"", "mini", "study"}
    assert parts <= set(ORDER), f"no place in the order: {sorted(parts - set(ORDER))}"


@each(FILES)
def test_a_file_imports_only_what_stands_above_it(path):
    own = part_of(name_of(path))
    limit = ORDER.index(own) if own in ORDER else 0
    for module in house_imports(path):
        part = part_of(module)
        if part:  # the package itself holds its version and imports nothing
            assert part in ORDER and ORDER.index(part) <= limit, f"{own} imports {module}"


def test_no_two_files_import_each_other_by_any_way_round():
    graph = {name_of(path): house_imports(path) - {"bat_jax"} for path in FILES}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_[open_.index(module) :], module])
        if module not in done:
            open_.append(module)
            for other in sorted(graph.get(module, ())):
                visit(other)
            done.add(open_.pop())

    for module in graph:
        visit(module)


@each([path for path in FILES if part_of(name_of(path)) in CORE])
def test_torch_absl_and_files_never_reach_the_core(path):
    """What runs under jit knows arrays alone: no other framework, no flags, no host-side image libraries."""
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & {"torch", "absl", "transformers", "tensorflow", "PIL", "rasterio", "safetensors"}


@each(FILES)
def test_the_library_knows_no_flags_and_no_experiments(path):
    assert not {module.split(".")[0] for module in imports(path)} & {"absl", "experiments", "tests"}


@each(EXPERIMENTS)
def test_experiments_do_not_import_tests_and_each_other_only_as_neighbours(path):
    """`from . import cli`: installed they are bat_jax.commands (setup.py), and nothing is called experiments."""
    assert not {"tests", "experiments"} & {module.split(".")[0] for module in imports(path)}


@each([path for path in FILES if part_of(name_of(path)) in ("ops", "nn", "compress", "model", "engine")])
def test_nothing_is_printed_by_the_core(path):
    calls = [ast.unparse(node.func) for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert not {"print", "jax.debug.print"} & set(calls)


@each([path for path in FILES + EXPERIMENTS if path.read_text(encoding="utf-8").strip()])
def test_every_file_says_what_it_is(path):
    docstring = ast.get_docstring(parse(path))
    assert docstring, "no module docstring"
    first = docstring.splitlines()[0]
    assert first[0].isupper() or not first[0].isalpha(), first


@each(FILES + EXPERIMENTS)
def test_nothing_is_ever_unpickled(path):
    roots = {module.split(".")[0] for module in imports(path)}
    assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle":
                    assert isinstance(keyword.value, ast.Constant), f"line {node.lineno}: allow_pickle={keyword.value}"
                    assert keyword.value.value is False, f"line {node.lineno}: allow_pickle"
                if keyword.arg == "weights_only":
                    assert ast.unparse(keyword.value) == "True", f"line {node.lineno}: weights_only"
            assert ast.unparse(node.func) != "torch.load" or "weights_only" in {k.arg for k in node.keywords}


@each(FILES)
def test_no_failure_is_swallowed(path):
    """No `except:` or `except Exception:` whose body is `pass`."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            is_broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            is_empty = all(isinstance(line, ast.Pass) for line in node.body)
            assert not (is_broad and is_empty), f"line {node.lineno}"


@each(FILES)
def test_no_file_is_a_drawer_for_everything(path):
    assert not re.search(r"(^|_)(utils?|helpers?|misc|common)$", path.stem)


def test_a_class_name_means_one_thing():
    places = {}
    for path in FILES + EXPERIMENTS:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(path.relative_to(ROOT).as_posix())
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_a_network_that_a_config_names_stands_in_nn_and_takes_that_config():
    """Configs stand above `nn` and name their module in `network`, so no import shows the way."""
    for config in NetworkConfig.__subclasses__():
        module = config.network.split(":")[0]
        assert part_of(module) == "nn" and module in {name_of(path) for path in FILES}
    for config in (VisionConfig(), DecoderConfig(), MlpConfig(in_dim=2, out_dim=3), ScaleEmbeddingConfig()):
        assert config.build().cfg == config
    assert DecoderConfig().build(remat=True).remat


def test_the_core_knows_neither_the_miniature_nor_the_study():
    """What runs and trains the 7B model; the benchmarks know one file of the miniature's, the record of UHR-Mini."""
    core = [*ORDER[: ORDER.index("data") + 1], "train"]
    for path in FILES:
        if part_of(name_of(path)) in core:
            assert not {part_of(module) for module in house_imports(path)} & {"mini.world", "mini.curriculum"}
