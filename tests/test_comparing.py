"""Systems side by side: read from wherever results lie, marked where not measured alike, bold only where certain."""

import json
import re
from pathlib import Path

import pytest
from compared_systems import RETRIEVAL, SETTINGS, ours, result, write_model, write_run

from lit_tune.comparing.rows import MOST, compare
from lit_tune.comparing.systems import System, read_systems
from lit_tune.comparing.text import WIDTH, table
from lit_tune.errors import ConfigError, DataError
from lit_tune.evals.results import Result, write_results

PUBLISHED = ["published:nomic-embed-vision-v1.5", "published:openai-clip-b16", "published:jina-clip-v1"]


def system(name, *results):
    return System(name, {one.task: one for one in results})


def row(comparison, name):
    return next(row for row in comparison.rows if row.name == name)


def values(comparison, name):
    return [cell.value for cell in row(comparison, name).cells]


def marks(comparison, name):
    return [cell.mark for cell in row(comparison, name).cells]


def best(comparison, name):
    return [cell.best for cell in row(comparison, name).cells]


def test_a_run_is_read_at_its_newest_step_with_results_or_at_the_one_named(tmp_path):
    run = write_run(tmp_path / "run")
    newest, named, older = read_systems([str(run), str(run / "eval" / "200.json"), f"{run}@100"])
    assert [newest.name, named.name, older.name] == [str(run), str(run / "eval" / "200.json"), "run@100"]
    assert newest.results["imagenet"].metrics["main_metric"] == 0.702  # the line of results, not the flat figure
    assert newest.results["unseen"].metrics["main_metric"] == 0.5  # which is only in the flat file
    assert set(older.results) == {"unseen", "imagenet"} and older.results["imagenet"].metrics["main_metric"] == 0.1
    assert read_systems([str(run)])[0].name == "run@200"


def test_flat_figures_get_their_outside_names_and_the_mean_of_both_ways(tmp_path):
    flat = {"val/flickr30k/image_retrieval_recall@1": 0.5, "val/flickr30k/text_retrieval_recall@1": 0.75,
            "val/imagenet/zeroshot/top1": 0.25, "val/imagenet/zeroshot/top1_low": 0.2, "val/imagenet/loss": 3.0,
            "val/imagenet/zeroshot/top1_high": 0.3, "val/imagenet/zeroshot/top1 [prompt none]": 0.9,
            "val/datacomp38/imagenet": 0.25, "val/loss": 1.0, "step": 7}  # fmt: skip
    (tmp_path / "r" / "eval").mkdir(parents=True)
    file = tmp_path / "r" / "eval" / "7.json"
    file.write_text(json.dumps(flat))
    (found,) = read_systems([str(file)])
    assert found.name == "r@7" and set(found.results) == {"flickr30k", "imagenet"}
    assert set(found.results["imagenet"].metrics) == {"acc1", "acc1_low", "acc1_high", "loss", "main_metric"}
    compared = compare([found])
    assert values(compared, "flickr30k") == [0.625]
    assert (row(compared, "imagenet").cells[0].low, row(compared, "imagenet").cells[0].high) == (0.2, 0.3)


def test_a_model_folder_a_results_folder_and_a_file_of_datacomp_are_read(tmp_path):
    model = write_model(tmp_path / "model", ours())
    plain = tmp_path / "peer"
    plain.mkdir()
    line = {"key": "imagenet1k", "dataset": "ImageNet 1k", "metrics": {"acc1": 0.5, "main_metric": 0.5}}
    (plain / "eval_results.jsonl").write_text(json.dumps(line) + "\n")
    names = [str(model), str(plain), str(tmp_path / "other.jsonl")]
    write_results(tmp_path / "other.jsonl", [result("imagenet", 0.4)])
    systems = read_systems(names)
    assert [s.name for s in systems] == ["model", "peer", "other"]
    assert values(compare(systems), "imagenet") == [0.702, 0.5, 0.4]
    assert [s.name for s in read_systems([f"{model}/eval/eval_results.jsonl"])] == ["model"]


@pytest.mark.parametrize("name", ["nothing/here", "run@150", "run/eval/300.json", "empty", "weights.bin",
                                  "published:clip"])  # fmt: skip
def test_a_name_that_stands_for_no_results_is_refused_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as refused:
        read_systems([name])
    assert "\n" not in str(refused.value) and name.removeprefix("published:") in str(refused.value)


def test_a_step_without_results_is_refused_with_those_that_have_some(tmp_path):
    run = write_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="100, 200"):
        read_systems([f"{run}@300"])


def test_the_same_name_twice_and_too_many_systems_are_refused():
    with pytest.raises(ConfigError, match="twice"):
        read_systems([PUBLISHED[0], PUBLISHED[0]])
    with pytest.raises(ConfigError, match=f"1 to {MOST}"):
        compare([system(str(i), result("imagenet", 0.5)) for i in range(MOST + 1)])
    with pytest.raises(ConfigError):
        compare([])


@pytest.mark.parametrize("name, content", [("5.json", "{"), ("a.jsonl", "{}\n"), ("b.jsonl", "\xff")])
def test_a_damaged_file_is_a_data_error(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=name):
        read_systems([str(tmp_path / name)])


def test_equal_settings_are_not_marked():
    found = compare([system("a", *ours()), system("b", *ours(0.01))])
    assert all(cell.mark == "" for row in found.rows for cell in row.cells)
    assert found.footnotes == {} and found.legend == ""


@pytest.mark.parametrize("changed, expected", [
    ({"data_sha256": "f" * 64}, "data: sha256 differ"),
    ({"samples": 500}, "samples: 500 here, 50,000 there"),
    ({"templates": 7, "templates_sha256": "7" * 64}, "templates: 7 here, 80 there"),
    ({"templates_sha256": "7" * 64}, "templates: sha256 differ"),
    ({"classes_sha256": None}, "class names: unknown here"),
    ({"clean": False}, "cleaning of texts: false here, true there"),
    ({"prompt": ""}, 'prompt "", the tower\'s own is "search_query: "'),
    (dict.fromkeys(SETTINGS), "settings unknown (results without settings)"),
])  # fmt: skip
def test_what_differs_is_marked_and_said(changed, expected):
    found = compare([system("a", result("imagenet", 0.5)), system("b", result("imagenet", 0.6, **changed))])
    assert marks(found, "imagenet") == ["", "a"] and found.footnotes == {"a": expected}


@pytest.mark.parametrize("changed", [{"resize": "area"}, {"dtype": "float32"}, {"image_size": 336},
                                     {"prompt": "", "own_prompt": ""}])  # fmt: skip
def test_what_belongs_to_a_system_is_shown_and_not_marked(changed):
    found = compare([system("a", result("imagenet", 0.5)), system("b", result("imagenet", 0.6, **changed))])
    assert marks(found, "imagenet") == ["", ""]
    assert any(len(set(shown)) == 2 for shown in found.settings.values())


def test_a_setting_that_both_do_not_state_is_not_taken_for_equal():
    found = compare([system(name, result("imagenet", 0.5, templates_sha256=None)) for name in "ab"])
    assert found.footnotes == {"a": "templates: unknown here and there"} and marks(found, "imagenet") == ["", "a"]


def test_retrieval_needs_no_class_names_to_be_measured_alike():
    found = compare([system(name, result("flickr30k", 0.5, settings=RETRIEVAL)) for name in "ab"])
    assert marks(found, "flickr30k") == ["", ""]


def test_unknown_settings_are_marked_wherever_they_stand_and_known_ones_compared_with_each_other():
    unknown = dict.fromkeys(SETTINGS)
    found = compare([system("a", result("imagenet", 0.5, **unknown)), system("b", result("imagenet", 0.5)),
                     system("c", result("imagenet", 0.5)), system("d", result("imagenet", 0.5, samples=9))])
    assert marks(found, "imagenet") == ["a", "", "", "b"]


def test_another_metric_under_the_same_name_is_marked():
    other = Result("mine", "mine", "mine", {"acc1": 0.5, "mean_per_class_recall": 0.4, "main_metric": 0.4}, SETTINGS)
    found = compare([system("a", result("mine", 0.5)), system("b", other)])
    assert found.footnotes == {"a": "metric: mean_per_class_recall here, acc1 there"}


def test_one_letter_stands_for_one_kind_of_difference_and_names_the_tasks():
    first = [result(name, 0.5) for name in ("imagenet", "cifar10", "mnist", "food101", "stl10")]
    second = [result(name.task, 0.5, samples=10 + i) for i, name in enumerate(first)]
    found = compare([system("a", *first), system("b", *second)])
    assert set(found.footnotes) == {"a"}
    assert "10 here, 50,000 there (ImageNet zero-shot)" in found.footnotes["a"]
    assert found.footnotes["a"].endswith(", 2 more") and "here: the marked figure" in found.legend


def test_an_average_carries_the_mark_of_its_tasks():
    alike, other, mixed = ours(), ours(clean=False), ours()
    mixed[1] = result("imagenet_sketch", 0.5, clean=False)
    found = compare([system("a", *alike), system("b", *other), system("c", *mixed)])
    shifts = marks(found, "ImageNet dist. shifts")
    assert shifts[0] == "" and found.footnotes[shifts[1]].startswith("cleaning of texts")
    assert shifts[2] not in ("", shifts[1]) and "some of which are marked" in found.footnotes[shifts[2]]


def test_best_is_told_only_where_the_interval_excludes_the_second():
    def two(a, b, half, **changed):
        return compare([system("a", result("imagenet", a, half)), system("b", result("imagenet", b, half, **changed))])

    assert best(two(0.50, 0.52, 0.01), "imagenet") == [False, True]
    assert best(two(0.50, 0.505, 0.01), "imagenet") == [False, False]  # within its interval
    assert best(two(0.50, 0.52, None), "imagenet") == [False, False]  # no interval is known
    assert best(two(0.50, 0.52, 0.01, samples=3), "imagenet") == [False, False]  # not measured alike
    assert best(two(0.50, 0.52, 0.01, prompt=""), "imagenet") == [False, True]  # its own choice, marked
    assert best(compare([system("a", result("imagenet", 0.5, 0.01))]), "imagenet") == [False]


def test_published_averages_stand_as_stated_and_partial_groups_are_left_out():
    found = compare(read_systems(PUBLISHED))
    assert values(found, "imagenet") == pytest.approx([0.71, 0.6834, 0.5908])
    assert values(found, "Average") == pytest.approx([0.568, 0.5626, 0.522], abs=5e-5)
    assert values(found, "mteb") == pytest.approx([0.6228, 0.4382, 0.6012])
    assert values(found, "Retrieval")[::2] == [None, None] and values(found, "coco")[0] is None
    assert set(found.footnotes.values()) == {"settings unknown (published figure)"}
    assert "jina-clip-v1" in found.notes[0] and "Retrieval (2 of 3 tasks)" in found.notes[0]
    assert any("nomic.ai/blog" in source and len(names) == 3 for source, names in found.sources.items())


def test_rows_come_in_sections_averages_first():
    found = compare([system("a", *ours())])
    sections = list(dict.fromkeys(row.section for row in found.rows))
    assert sections == ["Averages", "ImageNet dist. shifts", "Retrieval", "Other tasks"]
    assert [row.name for row in found.rows].count("imagenet") == 1 and found.rows[0].name == "imagenet"


def test_table_stays_under_120_columns_and_shows_five_systems_at_once(tmp_path):
    run, model = write_run(tmp_path / "run"), write_model(tmp_path / "model", ours(0.02, clean=False))
    text = table(compare(read_systems([str(run), str(model), *PUBLISHED])))
    assert max(map(len, text.splitlines())) < 120 and text.count("per cent") == 1
    (line,) = [line for line in text.splitlines() if "ImageNet zero-shot" in line and "top-1" in line]
    assert line.split() == ["ImageNet", "zero-shot", "top-1", "70.2", "±0.4", "72.2", "±0.4", "a", "71.0", "b",
                            "68.3", "b", "59.1", "b"]  # fmt: skip
    (line,) = [line for line in text.splitlines() if "WinoGAViL" in line]
    assert line.split() == ["WinoGAViL", "Jaccard", "-", "-", "-", "43.2", "b", "-"]


def test_more_systems_than_fit_stand_in_a_second_block():
    systems = [system(f"a-system-with-a-long-name-{i}", *ours(i / 100, samples=i + 1)) for i in range(MOST)]
    text = table(compare(systems))
    assert max(map(len, text.splitlines())) < 120 and text.count("per cent") == 2
    assert text.count("ImageNet Sketch") >= 2 and len(re.findall(r"60\.1 ±0\.4", text)) == 1


def heads(text):
    """The lines above the figures of each block, without "per cent"."""
    return [[line.removeprefix("per cent").split() for line in block.partition("\nAverages\n")[0].splitlines()]
            for block in text.partition("\n\n±")[0].split("\n\n")]


def test_a_name_is_broken_only_where_it_would_need_another_block():
    names = ["runs/2026-11/b16_lr3e-4@2000", "experiments_of_november", "b"]
    text = table(compare([system(name, *ours()) for name in names]))
    assert heads(text) == [[names]] and max(map(len, text.splitlines())) < 120
    names = [f"runs/night-{i}/vit_base_patch16@{i}000" for i in range(1, 4)]  # 32 wide: three fit only when broken
    text = table(compare([system(name, *ours()) for name in names]))
    (lines,) = heads(text)
    assert len(lines) == 2 and ["".join(parts) for parts in zip(*lines, strict=True)] == names, text
    assert all(part[-1] in "/-_@" for part in lines[0]) and max(map(len, text.splitlines())) < 120


def test_no_part_of_a_name_is_lost_or_cut_within_a_word():
    names = ["a" * 70, "pre-trained_on/everything_that_there_is/with-a-rather-long-name@2000", "b c/d" * 10]
    text = table(compare([system(name, *ours()) for name in names]))
    shown = text.partition("\nAverages\n")[0].replace("per cent", " " * 8)
    columns = [shown.splitlines()[0].index(start) for start in ("a" * 32, "pre", "b c")] + [WIDTH]
    for name, left, right in zip(names, columns[:-1], columns[1:], strict=True):
        parts = [line[left:right].rstrip() for line in shown.splitlines() if line[left:right].strip()]
        assert "".join(parts) == name and all(len(part) <= 32 for part in parts), text
        assert name[0] == "a" or all(part[-1] in "/-_@" for part in parts[:-1]), parts


def test_the_example_of_the_docs_is_what_is_printed(tmp_path):
    changed = {"templates": 7, "templates_sha256": "7" * 64, "prompt": ""}
    run, model = write_run(tmp_path / "run"), write_model(tmp_path / "exported", ours(0.011, **changed))
    page = (Path(__file__).parents[1] / "docs" / "evaluation-compare.md").read_text()
    assert table(compare(read_systems([str(run), str(model), PUBLISHED[0]]))) in page


def test_table_keeps_a_prompts_spaces_and_leaves_unknown_settings_out(tmp_path):
    text = table(compare(read_systems([str(write_run(tmp_path / "run")), PUBLISHED[0]])))
    assert 'run@200: prompt "search_query: ", own prompt "search_query: "' in text
    assert "version lit_tune 0.1.0" in text.replace("\n  ", " ") and "nomic-embed-vision-v1.5: unknown" in text
