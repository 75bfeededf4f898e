import re
from xml.etree import ElementTree as ET

from benchmarks.cases import CASES
from benchmarks.page import MARKED, PAGE, insert
from benchmarks.plot import draw
from benchmarks.rows import Curve, Row, at_least

SVG = "{http://www.w3.org/2000/svg}"


def result(name: str, rate: float) -> dict[str, object]:
    machine = {
        "cpu": "a processor",
        "cores": 2,
        "memory": "8 GB",
        "kernel": "6.1",
        "python": "3.11.7",
        "event_loop": "uvloop",
        "packages": {"aiohttp": "3.14.3", "uvloop": None},
        "store_file_system": "ext4",
        "revision": "0123456",
        "uncommitted_changes": False,
        "load_average": [0.5, 0.4, 0.3],
    }
    row = Row("a case", "/s", [rate], [10.0], at_least(0.5), "a note")
    return {"machine": machine, "repetitions": 5, "seconds": 600.0, "rows": [{"of": name, **row.plain()}]}


def test_the_page_has_a_place_for_the_machine_and_for_each_case_that_has_rows() -> None:
    names = [found[2] for found in MARKED.finditer(PAGE.read_text())]
    assert sorted(names) == sorted({"machine", *CASES} - {"scaling"})


def test_figures_are_written_between_their_markers_and_replaced_by_those_of_the_next_run() -> None:
    page = "before\n<!-- figures of machine -->\n<!-- end -->\n<!-- figures of reads -->\n<!-- end -->\nafter\n"
    first = insert(page, result("reads", 7.0))
    assert "| a case | 7.00 /s | 10.0 /s  | 0.70   | ≥ 0.50 | yes |" in first
    assert "- a case: a note" in first
    assert "aiohttp 3.14.3\n" in first
    second = insert(first, result("reads", 3.0))
    assert "7.00 /s" not in second
    assert "| a case | 3.00 /s | 10.0 /s  | 0.30   | ≥ 0.50 | no  |" in second
    assert MARKED.sub(r"\1\3", second) == page


def test_a_plot_has_a_line_for_each_curve_with_a_point_for_each_figure_inside_its_frame() -> None:
    points = [(1, 120.0), (10, 900.0), (256, 4_000.0)]
    curves = [Curve(plot, "clients", name, points) for plot in ("a <b>", "c") for name in ("ours", "theirs")]
    drawn = ET.fromstring(draw(curves))
    lines = drawn.findall(f".//{SVG}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 3, 3, 3]
    places = [float(place) for line in lines for place in re.split(r"[ ,]", line.attrib["points"])]
    _, _, width, height = map(float, drawn.attrib["viewBox"].split())
    assert all(0 < place < max(width, height) for place in places)
    assert {text.text for text in drawn.iter(f"{SVG}text")} >= {"a <b>", "clients", "theirs", "100", "10,000"}
