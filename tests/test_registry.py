"""Records are found in a package, in installed distributions and at run time; what is wrong with one is said."""

import dataclasses
import sys

import pytest

from bat_jax.registry import Registry

GROUP = "bat_jax.animals"


@dataclasses.dataclass(frozen=True)
class Animal:
    name: str
    legs: int = 4
    aliases: tuple[str, ...] = ()


def write(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package of two records, and a way to add files to the folder that it lies in."""
    package = f"zoo_{tmp_path.name.replace('-', '_')}"
    head = f"from {__name__} import Animal\n"
    write(tmp_path, f"{package}/__init__.py", "")
    write(tmp_path, f"{package}/dog.py", head + "ANIMAL = Animal('dog')")
    write(tmp_path, f"{package}/bird.py", head + "ANIMAL = Animal('bird', 2)")
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, value, text=""):
        write(tmp_path, f"{name}.py", head + text)
        write(tmp_path, f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        write(tmp_path, f"{name}-1.0.dist-info/entry_points.txt", f"[{GROUP}]\nmine = {value}\n")

    yield package, install
    for module in [name for name in sys.modules if name.startswith((package, "farm_"))]:
        del sys.modules[module]


def registry_of(package):
    return Registry(
        Animal, noun="animal", package=package, attribute="ANIMAL", group=GROUP, order=lambda one: (one.legs, one.name)
    )


def test_every_module_of_the_package_is_a_record_and_they_stand_in_order(zoo):
    animals = registry_of(zoo[0])
    assert animals.names == ("bird", "dog") and list(animals) == [Animal("bird", 2), Animal("dog")]
    assert animals["dog"].legs == 4 and "dog" in animals and "cat" not in animals


def test_a_record_is_found_by_its_aliases_which_no_other_record_may_have(zoo):
    animals = registry_of(zoo[0])
    with animals.added(Animal("cat", aliases=("puss",))) as cat:
        assert animals["puss"] is cat and "puss" in animals and animals.names == ("bird", "cat", "dog")
        for other in (Animal("puss"), Animal("tiger", aliases=("puss",)), Animal("tiger", aliases=("dog",))):
            with pytest.raises(ValueError, match="is there already"):
                animals.register(other)


def test_an_installed_distribution_adds_a_record(zoo):
    package, install = zoo
    animals = registry_of(package)
    assert animals.names == ("bird", "dog")
    install("farm_ant", "farm_ant:INSECT", "INSECT = Animal('ant', 6)")
    animals.refresh()
    assert animals.names == ("bird", "dog", "ant")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("INSECT = Animal('dog')", "the animal 'dog' is there already"),
        ("INSECT = 'ant'", "holds no Animal, found 'ant'"),
        ("raise RuntimeError('no legs')", "no legs"),
        ("", "has no attribute 'INSECT'"),
    ],
)
def test_a_distribution_at_fault_is_named(zoo, text, says):
    package, install = zoo
    install("farm_bad", "farm_bad:INSECT", text)
    with pytest.raises(ValueError, match=f"entry point {GROUP}: mine = farm_bad:INSECT.*{says}"):
        _ = registry_of(package).names


def test_a_record_of_a_notebook_is_there_until_its_block_ends_and_replaces_none(zoo):
    animals = registry_of(zoo[0])
    with pytest.raises(ZeroDivisionError), animals.added(Animal("ant", 6)) as ant:
        assert animals["ant"] is ant
        with pytest.raises(ValueError, match="'ant' is there already"):
            animals.register(Animal("ant", 8))
        1 / 0  # noqa: B018
    assert "ant" not in animals
    with pytest.raises(ValueError, match="'dog' is there already"):
        animals.register(Animal("dog"))


def test_an_unknown_name_is_answered_with_the_known_ones(zoo):
    with pytest.raises(ValueError, match=r"^animal='cow': must be one of bird, dog$"):
        registry_of(zoo[0])["cow"]
