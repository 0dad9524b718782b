"""Several hosts on one evaluation, as processes on loopback: equal to one, refused if they differ, killed, resumed."""

import json
import signal
import socket
from concurrent import futures

import pytest

from bat_jax.hosts import HostShare, HostSign, meet
from tests.command_batch import run_commands, run_together
from tests.tiny_model import write_tiny_checkpoint

NUM_QUESTIONS = 8


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hosts")
    write_tiny_checkpoint(folder / "checkpoint")
    return folder


def command(folder, output, *flags):
    given = [f"--checkpoint={folder}/checkpoint", f"--output_dir={folder}/{output}", "--benchmark=uhr_mini"]
    given += ["--scene_seeds=3000000:3000002", "--render_px=224", f"--limit={NUM_QUESTIONS}", "--questions_at_once=1"]
    return [*given, "--max_new_tokens=2", *flags]


def on_two_hosts(folder, output, *flags, second=(), **options):
    flags = (*flags, f"--coordinator={free_address()}", "--num_processes=2")
    cases = [
        command(folder, output, *flags, "--process_id=0"),
        command(folder, output, *flags, "--process_id=1", *second),
    ]
    return run_together("experiments.evaluate", cases, **options)


def answers(folder, output):
    files = sorted((folder / output).glob("predictions*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len({line["id"] for line in lines}) == len(lines), "asked twice"
    return {line["id"]: (line["output"], line["tokens_kept"], line["verdicts"]) for line in lines}


def test_two_hosts_equal_one_also_after_one_was_killed(folder):
    ((code, _, err),) = run_commands("experiments.evaluate", [command(folder, "one")])
    assert code == 0, err
    one = answers(folder, "one")
    assert len(one) == NUM_QUESTIONS

    first, second = (folder / "two" / f"predictions-00{number}-of-002.jsonl" for number in (1, 2))
    killed, other = on_two_hosts(folder, "two", "--host_timeout=8", kill_first_at=(first, 1))
    assert killed[0] == -signal.SIGKILL
    assert other[0] == 1 and other[2].count("\n") == 1 and "missing hosts, of 2: 1" in other[2], other
    before = [file.read_bytes() for file in (first, second)]
    assert before[0].count(b"\n") < sum(id in answers(folder, "two") for id in one) < NUM_QUESTIONS
    assert not (folder / "two" / "metrics.json").exists()

    done = on_two_hosts(folder, "two")
    assert [code for code, _, _ in done] == [0, 0], done
    assert "host 2 of 2 is done; host 1 writes the metrics" in done[1][1]
    for file, content in zip((first, second), before, strict=True):
        assert file.read_bytes().startswith(content[: content.rfind(b"\n") + 1])
    assert second.read_bytes() == before[1], "the other had finished its pictures"
    assert answers(folder, "two") == one
    ours, theirs = (json.loads((folder / name / "metrics.json").read_text()) for name in ("two", "one"))
    assert ours["status"] == {"answered": NUM_QUESTIONS, "missing": 0, "error": 0}
    assert {key: ours[key] for key in ("overall", "subtasks", "rules")} == {
        key: theirs[key] for key in ("overall", "subtasks", "rules")
    }


def test_hosts_with_other_settings_are_refused_before_anything_is_written(folder):
    done = on_two_hosts(folder, "other", second=("--seed=1", "--prompt=word"))
    for code, _, err in done:
        assert code == 1 and err.count("\n") == 1, err
        assert 'hosts 1 and 2 differ (prompt: "release" -> "word"; seed: 0 -> 1)' in err
    assert not (folder / "other").exists()


def test_flags_of_hosts_that_do_not_fit_are_named(folder):
    wrong = {
        "--num_processes=2": "--num_processes: several hosts need --coordinator",
        "--coordinator=here --num_processes=2": "write HOST:PORT",
        "--coordinator=here:1 --num_processes=2 --process_id=2": "--process_id=2: must be below --num_processes=2",
        "--coordinator=auto --process_id=1": "--process_id: --coordinator=auto knows it",
        "--coordinator=here:1 --num_processes=2 --shard=1/2": "--shard: with --coordinator",
        "--coordinator=here:1 --num_processes=2 --overwrite": "--overwrite: would remove",
        "--coordinator=auto": "JAX knows no cluster here",
    }
    done = run_commands("experiments.evaluate", [command(folder, "wrong", *flags.split()) for flags in wrong])
    for (code, _, err), named in zip(done, wrong.values(), strict=True):
        assert code == 1 and named in err and err.count("\n") == 1, err
    assert not (folder / "wrong").exists()


def test_a_meeting_that_fails_says_why():
    nobody, twice, fewer = (free_address() for _ in range(3))
    hosts = {
        "nobody": (nobody, 2, 1, {}, 1),
        "first of three": (twice, 3, 0, {}, 5),
        "second": (twice, 3, 1, {}, 5),
        "second, too": (twice, 3, 1, {}, 5),
        "first of two": (fewer, 2, 0, {}, 60),
        "second of three": (fewer, 3, 1, {}, 60),
    }

    def fault_of(host):
        with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
            meet(*host)
        return str(caught.value)

    with futures.ThreadPoolExecutor(len(hosts)) as pool:
        faults = dict(zip(hosts, pool.map(fault_of, hosts.values()), strict=True))
    assert faults["nobody"] == f"--coordinator={nobody}: not all hosts came within 1 s"
    assert faults["first of three"] == f"--coordinator={twice}: not all hosts came within 5 s"
    pair = sorted(faults[name].removeprefix(f"--coordinator={twice}: ") for name in ("second", "second, too"))
    assert pair == ["another process came with the same --process_id", "not all hosts came within 5 s"]
    assert faults["first of two"] == faults["second of three"] == "hosts 1 and 2 differ (num_processes: 2 -> 3)"


def test_signs_of_other_starts_do_not_count_and_a_host_that_stops_is_missing_at_once(tmp_path):
    def share(index, meeting="now"):
        return HostShare(index=index, num_hosts=3, meeting=meeting)

    with HostSign(tmp_path, share(3, "before"), 1000) as old:
        old._give("done")
    with pytest.raises(KeyError), HostSign(tmp_path, share(2), 1000):
        raise KeyError
    with HostSign(tmp_path, share(1), 0.3) as sign, pytest.raises(ValueError, match="missing hosts, of 3: 2, 3 "):
        sign.wait_for_others()
    with HostSign(tmp_path, share(2), 1000), HostSign(tmp_path, share(3), 1000) as third:
        third._give("done")
        with HostSign(tmp_path, share(1), 1000) as first, futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(first.wait_for_others)
            with pytest.raises(futures.TimeoutError):
                waiting.result(0.5)
            with HostSign(tmp_path, share(2), 1000) as second:
                second._give("done")
                waiting.result()
