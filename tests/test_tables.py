"""Files of rows as people have them: separators, quoting, encodings and JSON that are read, and what is refused by line."""

import csv
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylora.tasks.columns import ColumnError
from tinylora.tasks.messages import read_messages
from tinylora.tasks.tables import read_records, read_table, read_text

PAIRS = [("ham", "see you"), ("spam", "win now")]
TWO = "ham,see you\nspam,win now\n"


def written(tmp_path, name, content, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


# --------------------------------------------------------------------------------- the same rows, however stored
@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", "label;text\nham;see you\nspam;win now\n"),
        ("a.csv", "ham;see you\nspam;win now\n"),
        ("a.csv", "label|text\r\nham|see you\r\nspam|win now\r\n"),
        ("a.csv", "label\ttext\nham\tsee you\nspam\twin now\n"),
        ("a.csv", "sep=,\nlabel,text\n" + TWO),
        ("a.csv", 'sep=;\r\nlabel;text\r\nham;see you\r\nspam;"win now"\r\n'),
        ("a.csv", '"sep=;"\nlabel;text\nham;see you\nspam;win now\n'),
        ("a.csv", ",label,text\n0,ham,see you\n1,spam,win now\n"),  # pandas' index
        ("a.csv", "Unnamed: 0,label,text\n0,ham,see you\n1,spam,win now\n"),
        ("a.csv", "label,text\n1,ham,see you\n2,spam,win now\n"),  # R's row names
        ("a.tsv", "label\ttext\n1\tham\tsee you\n2\tspam\twin now\n"),
        ("a.csv", "label,text,,,\nham,see you,,,\nspam,win now,,,\n"),  # a spreadsheet's empty columns
        ("a.csv", "label,text\nham,see you,\nspam,win now,,\n"),
        ("a.csv", "label,text,,\nham,see you,,\nspam,win now,,left over\n"),
        ("a.csv", "label,text\n" + TWO + ",\n,\n"),  # and its empty rows
        ("a.csv", 'label,text\nham, "see you"\nspam, "win now"\n'),
        ("a.csv", "label,text\rham,see you\rspam,win now\r"),
        ("a.tsv", "label\ttext\rham\tsee you\rspam\twin now\r"),
        ("a.csv", "label,text\n" + TWO + "\x1a"),
        ("a.json", '[{"label": "ham", "text": "see you"}, {"label": "spam", "text": "win now"}]'),
        ("a.jsonl", '[{"label": "ham", "text": "see you"},\n{"label": "spam", "text": "win now"}]\n'),
        ("a.json", '{"data": [\n{"label": "ham", "text": "see you"},\n{"label": "spam", "text": "win now"}\n]}\n'),
        ("a.json", '{\n "label": "ham",\n "text": "see you"\n}\n{\n "label": "spam",\n "text": "win now"\n}'),
        ("a.ndjson", '{"label": "ham", "text": "see you"}\n{"label": "spam", "text": "win now"}\n'),
        ("a.jsonl", '{"text": "see you", "label": "ham"}\n{"n": {"x": [1]}, "label": "spam", "text": "win now"}\n'),
    ],
)
def test_two_messages_from_every_way_to_store_them(tmp_path, name, content):
    assert read_messages(written(tmp_path, name, content)) == PAIRS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(
    "suffix, header", [("csv", "label,text\n" + TWO), ("tsv", "label\ttext\n" + TWO.replace(",", "\t"))]
)
def test_a_byte_order_mark_names_the_encoding(tmp_path, encoding, suffix, header):
    path = written(tmp_path, f"a.{suffix}", header.replace("you", "Zoë"), encoding)
    assert read_messages(path) == [("ham", "see Zoë"), ("spam", "win now")]
    assert read_text(path) == header.replace("you", "Zoë")


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
tables = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1, max_size=6))


@given(tables, st.sampled_from(",;\t|"))
def test_any_table_survives_csv_with_any_separator(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
    path.write_bytes(f"sep={delimiter}\n".encode() + path.read_bytes())
    assert [row.cells for row in read_table(path).rows] == rows


@given(tables)
def test_any_table_survives_json(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "a.json"
    found = [{f"column {i}": cell for i, cell in enumerate(row)} for row in rows]
    for indent in (None, 1):
        path.write_text(json.dumps(found, indent=indent), "utf-8")
        assert [record.cells for record in read_records(path)] == found


def test_cells_may_be_long(tmp_path):
    limit, text = csv.field_size_limit(), "word " * 40_000 + "end"
    for name, content in (
        ("a.csv", f'label,text\nham,"{text}"\nspam,win now\n'),
        ("a.tsv", f"label\ttext\nham\t{text}\nspam\twin now\n"),
        ("a.jsonl", json.dumps({"label": "ham", "text": text}) + '\n{"label": "spam", "text": "win now"}\n'),
    ):
        assert read_messages(written(tmp_path, name, content)) == [("ham", text), ("spam", "win now")]
    assert csv.field_size_limit() == limit


def test_in_tsv_quotation_marks_count_where_they_are_doubled_or_hold_a_line_end(tmp_path):
    path = written(tmp_path, "a.tsv", 'label\ttext\nham\t"say ""hi"""\nspam\t"two\nlines"\n')
    messages = read_messages(path)
    assert messages == [("ham", 'say "hi"'), ("spam", "two\nlines")]
    assert messages.lines == [2, 3] and "quotation marks" in messages.notes[0]
    assert read_messages(written(tmp_path, "b.tsv", 'ham\t"hi"\nspam\t"win\n')) == [("ham", '"hi"'), ("spam", '"win')]


def test_a_backslash_before_a_quotation_mark(tmp_path):
    path = written(tmp_path, "a.csv", 'label,text\nham,"say \\"hi\\", now"\nspam,C:\\new\n')
    messages = read_messages(path)
    assert messages[0].text == 'say "hi", now' and "backslash" in messages.notes[0]


# ------------------------------------------------------------------------------------------------- lines
def test_a_row_has_the_line_that_it_begins_on(tmp_path):
    content = 'sep=,\nlabel,text\n\nham,"a\nb"\nspam,c\n'
    assert [row.line for row in read_table(written(tmp_path, "a.csv", content)).rows] == [2, 4, 6]
    content = '[\n{"a": 1,\n"b": 2},\n\n{"a": 3}\n]'
    assert [record.line for record in read_records(written(tmp_path, "a.json", content))] == [2, 5]
    assert [record.line for record in read_records(written(tmp_path, "a.jsonl", '\n{"a": 1}\n\n{"a": 2}'))] == [2, 4]


def test_records_of_a_csv_file_have_the_names_in_its_header(tmp_path):
    path = written(tmp_path, "a.csv", " prompt ,,completion\nHi,0,Hello\nBye,1,\n")
    assert read_records(path) == [(2, {"prompt": "Hi", "completion": "Hello"}), (3, {"prompt": "Bye", "completion": ""})]
    with pytest.raises(ValueError, match="line 1: two columns are named 'a'"):
        read_records(written(tmp_path, "b.csv", "a,b,a\n1,2,3\n"))


def test_records_of_a_json_file_have_every_key_and_any_value(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"tokens": ["a", "b"]}\n{"messages": [{"role": "user"}], "n": 1.5}\n')
    assert read_records(path) == [
        (1, {"tokens": ["a", "b"], "messages": None, "n": None}),
        (2, {"tokens": None, "messages": [{"role": "user"}], "n": 1.5}),
    ]
    alone = written(tmp_path, "b.json", '{"messages": [{"role": "user"}]}')
    assert [record.cells for record in read_records(alone)] == [{"messages": [{"role": "user"}]}]


# ----------------------------------------------------------------------------------- columns and their values
@pytest.mark.parametrize(
    "name, content, text, label",
    [
        ("a.csv", "review,sentiment\ngood film,positive\nbad film,negative\n", "review", "sentiment"),
        ("a.jsonl", '{"review": "good film", "sentiment": "positive"}\n', "review", "sentiment"),
        ("a.csv", "v1,v2,,,\nham,hello,,,\nspam,win,,,\n", "v2", "v1"),
        ("a.csv", "phrase,verdict\na good film,good\na bad film,bad\nquite a film,good\n", "phrase", "verdict"),
        ("a.csv", "wording,outcome\na good film,good\na bad film,bad\nquite a film,good\n", "wording", "outcome"),
        ("a.tsv", "id\twording\tfound\n1\ta good film\tgood\n2\ta bad film\tbad\n3\tquite so\tgood\n", "wording", "found"),
        ("a.jsonl", "".join(f'{{"id": {i}, "said": "some text {i}", "k": {i % 2}}}\n' for i in range(9)), "said", "k"),
    ],
)  # fmt: skip
def test_unusual_names_of_columns_are_suggested_and_never_a_message(tmp_path, name, content, text, label):
    path = written(tmp_path, name, content)
    with pytest.raises(ColumnError) as error:
        read_messages(path)
    assert error.value.suggested == {"text": text, "label": label}
    assert text in str(error.value) and label in str(error.value) and str(error.value).startswith(f"{path}: ")
    assert len(read_messages(path, text, label)) == len(read_table(path).rows) - (not name.endswith("jsonl"))


def test_of_two_columns_one_name_is_enough(tmp_path):
    path = written(tmp_path, "a.csv", "review,sentiment\ngood film,positive\nbad film,negative\n")
    assert (
        read_messages(path, "review")
        == read_messages(path, label_column="sentiment")
        == read_messages(path, "review", "sentiment")
    )
    with pytest.raises(ColumnError, match="no text column among body, label; perhaps 'body' as the text"):
        read_messages(written(tmp_path, "b.csv", "body,label\nhi,ham\n"))
    with pytest.raises(ValueError, match="cannot be the text and the label"):
        read_messages(path, "review", "review")


@pytest.mark.parametrize(
    "content", ["ham\thi\nspam\twin\nspam\tnow\n", "ham\thello\nspam\tyou have won\nspam\twin a prize now\nham\tyes\n"]
)
def test_a_file_without_a_header_is_read_and_noted(tmp_path, content):
    messages = read_messages(written(tmp_path, "a.tsv", content))
    assert len(messages) == content.count("\n") and messages.lines[0] == 1
    assert messages.notes[0] == "no header: column 1 is the label, column 2 the text"


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "content, labels",
    [
        (lines({"label": 1, "text": "a"}, {"label": 1.0, "text": "b"}, {"label": 2, "text": "c"}), ["1", "1", "2"]),
        (lines({"label": True, "text": "a"}, {"label": False, "text": "b"}), ["true", "false"]),
        (lines({"label": 0.5, "text": "a"}, {"label": -1, "text": "b"}), ["0.5", "-1"]),
        (lines({"label": 10**30, "text": "a"}, {"label": 10**30 + 1, "text": "b"}), [str(10**30), str(10**30 + 1)]),
        (lines({"label": "007", "text": "a"}, {"label": "7", "text": "b"}), ["007", "7"]),
        (lines({"label": " x ", "text": 5}, {"label": "y", "text": True}), ["x", "y"]),
    ],
)
def test_what_a_json_value_plainly_is(tmp_path, content, labels):
    assert [m.label for m in read_messages(written(tmp_path, "a.jsonl", content))] == labels


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", '{"label": NaN, "text": "a"}\n', "line 1 is not readable as JSON .NaN is no finite number"),
        ("a.jsonl", '{"label": "x", "text": "a"}\n{"label": "x", "text": -Infinity}\n', "line 2 is not readable"),
        ("a.jsonl", '{"label": 1e999, "text": "a"}\n', "line 1 .*1e999"),
        ("a.jsonl", '{"label": "x", "text": "a", "label": "y"}\n', "line 1 .*the key 'label' stands twice"),
        ("a.jsonl", lines({"label": "x", "text": {"en": "a"}}), "line 1: the text is an object"),
        ("a.jsonl", lines({"label": "x", "text": "a"}, {"label": "x", "text": ["a"]}), "line 2: the text is a list"),
        ("a.jsonl", lines({"label": ["x", "y"], "text": "a"}), "line 1: the label is a list"),
        ("a.jsonl", lines({"label": {"name": "x"}, "text": "a"}), "line 1: the label is an object"),
        ("a.jsonl", lines({"label": "x", "text": [{"role": "user", "content": "a"}]}), "line 1: the text is a conversation"),
        ("a.jsonl", lines({"label": True, "text": "a"}, {"label": "true", "text": "b"}), "line 2: .*'true' .text.*line 1"),
        ("a.jsonl", lines({"label": True, "text": "a"}, {"label": "True", "text": "b"}), "line 2: .*'True'"),
        ("a.jsonl", lines({"label": True, "text": "a"}, {"label": 1, "text": "b"}), "line 2: .*'1' .number.* 'true'"),
        ("a.jsonl", lines({"label": 1, "text": "a"}, {"label": "1", "text": "b"}), "line 2: .*'1' .text"),
        ("a.csv", "label,text\n1,a\n1.0,b\n", "line 3: the label '1.0' .text. may be the same as '1' .text. in line 2"),
        ("a.csv", "label,text\ntrue,a\nTRUE,b\n", "line 3: .*'TRUE'"),
        ("a.csv", "label,text,text\nx,a,b\n", "two columns of the same name: 'text' and 'text'"),
        ("a.csv", "label,text,Label\nx,a,b\n", "two columns of the same name: 'label' and 'Label'"),
        ("a.csv", "label,text\nx,\u00a0\n", "line 2 has no text"),
        ("a.csv", "label,text\nx,\u200b\n", "line 2 has no text"),
        ("a.csv", "label;text\nham;hi, you\nspam;win; now\n", "line 3 has 3 columns, the first line 2 .*semicolons"),
        ("a.csv", "ham;hi, you\nspam;bye, you\n", "separated by commas or semicolons"),
        ("a.csv", "# exported\nlabel,text\nx,a\n", "line 2 has 2 columns, the first line 1 .*remove what stands above"),
        ("a.csv", "label,text\nx,'hello, you'\n", "line 2 has 3 columns.*commas.*quotation marks"),
        ("a.csv", b"label,text\nx,caf\xe9\n", "line 2 is not UTF-8, at byte 16; it may be Windows-1252, .*'é'"),
        ("a.csv", "label,text\nx,a\n".encode("utf-16")[:-1], "not UTF-16"),
        ("a.csv", ",,\n,,\n", "empty"), ("a.tsv", "\t\n\t\t\n", "empty"),
        ("a.json", "[]", "a list without an object"),
        ("a.json", '[{"label": "x"}\n {"label": "y"}]', "line 2 is not JSON .expected a comma"),
        ("a.json", '[{"label": "x"}\n', "line 2 is not JSON .the list does not end"),
        ("a.json", '[{"label": "x"}] x', "something follows the list"),
        ("a.json", '[{"label": "x"},\n["ham", "hi"]]', "line 2 is not a JSON object"),
        ("a.jsonl", '"label"\n', "line 1 is not a JSON object"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, "line 2 is not"),
    ],
)  # fmt: skip
def test_what_is_refused_names_the_file_and_the_line(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(ValueError, match=message) as error:
        read_messages(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_classes_that_differ_only_in_case_are_noted(tmp_path):
    messages = read_messages(written(tmp_path, "a.csv", "label,text\nHam,a\nham,b\nham,c\nspam,d\n"))
    assert messages.notes == ["classes that differ only in case: 'Ham' (1), 'ham' (2)"]
