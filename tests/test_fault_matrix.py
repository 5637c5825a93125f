"""The page about faults shows what the tests state."""

import fault_matrix


def test_the_page_shows_the_rows_that_the_tests_state() -> None:
    shown = fault_matrix.shown(fault_matrix.PAGE.read_text())
    wanted = fault_matrix.table(fault_matrix.stated(), fault_matrix.times_of(shown))
    assert shown == wanted, "run python tests/fault_matrix.py"


def test_every_row_of_the_matrix_has_a_test() -> None:
    assert {one.row for one in fault_matrix.stated()} == set(range(1, 51))


def test_times_survive_a_writing_without_new_ones() -> None:
    one = fault_matrix.Fault(row=1, test="test_a.py::test_b", fault="kill -9", expected="resumes", slow=False)
    assert fault_matrix.times_of(fault_matrix.table([one], {one.test: 3.25})) == {one.test: 3.2}
    assert fault_matrix.times_of(fault_matrix.table([one], {})) == {}
