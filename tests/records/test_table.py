"""The table of records in memory: exact values, joins by id, splits."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from asserts import assert_refused
from record_tables import ids_of, table_of

from lightning_gradood.records import LinearHead, Records

# Values that float32 or a text format would change.
EXACT = np.array([0.1, 1 / 3, np.pi * 1e-300, 5e-324, -0.0, 1.7976931348623157e308])


def test_parquet_gives_every_bit_and_the_names_back(tmp_path):
    norms, short = np.stack([EXACT, EXACT[::-1]], axis=1), EXACT[:4].astype(np.float32).repeat(3).reshape(6, 2)
    columns = {"label": range(6), "prediction": [0, 0, 2, 3, 4, -1], "attack": ["fgsm"] * 6, "l2": EXACT}
    columns |= {"success": [True, False, None, True, True, False], "linf": EXACT[::-1], "origin_id": ["cats/x"] * 6}
    values = {"norms": norms, "logits": EXACT[:, None], "short": short}
    names = {"norms": ["conv.weight", "conv.bias"]}
    built = Records.build(ids_of(6), source="cats", values=values, names=names, **columns)
    pq.write_table(built.table, tmp_path / "records.parquet")
    read = Records(pq.read_table(tmp_path / "records.parquet"))
    assert read.probe("norms").tobytes() == norms.tobytes()
    assert read.probe("logits").tobytes() == EXACT[:, None].tobytes()
    assert (read.probe("short").dtype, read.probe("short")[0, 0]) == (np.float64, float(np.float32(0.1)))
    assert (read.stored("short").dtype, read.stored("norms").dtype) == (np.float32, np.float64)
    assert np.shares_memory(read.stored("short"), read.keep(np.ones(6, bool)).stored("short"))  # no copies
    assert (read.names("norms"), read.names("logits")) == (["conv.weight", "conv.bias"], [])
    assert read.probes == ["norms", "logits", "short"]
    assert read.column("l2").tobytes() == EXACT.tobytes()
    assert read.table["success"].to_pylist() == columns["success"]
    assert read.table.drop_columns(read.probes).equals(built.table.drop_columns(read.probes))
    assert read.only(["logits", "norms"]).probes == ["logits", "norms"]
    assert Records.build(["a/0"], source="a", values={}).table.to_pylist()[0] == {
        "id": "a/0", "origin_id": "a/0", "source": "a", "attack": "", "label": -1, "prediction": -1,
        "success": None, "target_hit": None, "l2": 0.0, "linf": 0.0,
    }  # fmt: skip


def test_tables_are_joined_by_id_in_whatever_order_and_keep_their_own_values():
    logits = Records.build(["c", "a", "b"], source="cats", values={"logits": np.array([[2.0], [0.0], [1.0]])})
    joined = table_of(["a", "b", "c"]).join(logits)
    assert (joined.ids, joined.names("norms")) == (["a", "b", "c"], ["w", "b"])
    assert joined.probe("logits").ravel().tolist() == joined.probe("norms")[:, 0].tolist() == [0, 1, 2]
    own = table_of(["a", "b"]).join(table_of(["a", "b"], offset=7))
    assert (own.probes, own.probe("norms")[:, 0].tolist()) == (["norms"], [0, 1])
    # sorted, and of equal ids the first is kept
    records = Records.concatenate([table_of(["b", "a"]), table_of(["a", "c"], offset=10)]).by_id()
    assert (records.ids, records.probe("norms")[:, 0].tolist()) == (["a", "b", "c"], [1, 0, 11])


def test_splits_follow_the_origin_and_rows_without_one_are_dropped():
    ids, origins = ["a/0", "a/1", "a/0+fgsm", "a/2"], ["a/0", "a/1", "a/0", "a/2"]
    records = Records.build(ids, source="a", values={"p": np.arange(4.0)[:, None]}, origin_id=origins)
    split = records.with_splits({"a/0": "train", "a/1": "test", "b/9": "val"})
    assert split.ids == ids[:3]
    assert split.column("split").tolist() == ["train", "test", "train"]
    assert (split.probes, split.probe("p").ravel().tolist()) == (["p"], [0, 1, 2])


def test_rows_are_kept_that_agree_in_every_column_and_only_clean_ones_of_the_normal_source_are_normal():
    both = Records.concatenate([table_of(["a/0", "a/1"], source="a"), table_of(["b/0", "b/1"], source="b")])
    split = both.with_splits({"a/0": "train", "a/1": "val", "b/0": "train", "b/1": "train"})
    assert split.where(source="b", split="train").ids == ["b/0", "b/1"]
    assert split.where(source="a", split="train").probe("norms").tolist() == [[0, 0]]
    nothing = split.where(split="test")
    assert (len(nothing), nothing.probe("norms").shape) == (0, (0, 2))
    clean, other = table_of(["n/0"], source="normal"), table_of(["o/0"], source="other")
    attacked = Records.build(["n/1"], source="normal", values={"norms": np.zeros((1, 2))}, attack=["fgsm"])
    anomalous = Records.concatenate([clean, attacked, other]).anomalous
    assert (anomalous.tolist(), anomalous.dtype) == ([0, 1, 1], np.int64)


def test_rows_that_are_neighbours_are_taken_without_a_copy_and_others_with_one():
    one, two = table_of([f"a/{n}" for n in range(6)], source="a"), table_of(["b/0", "b/1"], source="b")
    values, both = one.stored("norms"), Records.concatenate([one, two])
    for found, rows in (
        (both.where(source="a"), slice(0, 6)), (both.keep(np.arange(8) < 4), slice(0, 4)),
        (one.keep(np.isin(np.arange(6), [2, 3])), slice(2, 4)), (one.keep(np.ones(6, bool)), slice(0, 6)),
    ):  # fmt: skip
        assert np.shares_memory(found.stored("norms"), values)
        np.testing.assert_array_equal(found.stored("norms"), values[rows])
    apart = one.keep(np.isin(np.arange(6), [0, 2]))
    assert (apart.ids, np.shares_memory(apart.stored("norms"), values)) == (["a/0", "a/2"], False)
    assert (len(one.keep(np.zeros(6, bool))), both.stored("norms").shape) == (0, (8, 2))


def test_what_does_not_fit_is_refused():
    one, two = table_of(["a"]), table_of(["a", "b"])
    assert_refused(
        (lambda: one.probe("odin"), "Got `name = 'odin'`; they hold ['norms']."),
        (lambda: two.join(table_of(["b", "c", "d"])), "hold the same 2 images. Got 3 images, 3 of them in one table"),
        (lambda: Records(pa.table({"id": ["a"]})), "Got a table without ['origin_id',"),
    )


def test_a_linear_head_stays_with_all_that_is_taken_from_records_and_is_refused_where_unknown():
    head = LinearHead(np.arange(6.0).reshape(3, 2), np.ones(3))
    plain = Records.build(["a/0", "a/1"], source="a", values={"logits": np.eye(2), "more": np.eye(2)})
    assert_refused((lambda: plain.head, "should know the network's last layer.*with_head"))
    told = plain.with_head(head).with_splits({"a/0": "train", "a/1": "val"})
    taken = [
        told.where(split="val"), told.only(["more"]), told.at([1, 0]), told.from_origins(["a/1"]), told.by_id(),
        Records.concatenate([told, told.where(split="val")]), told.with_splits({"a/0": "val"}), told.join(told),
        Records(told.table.filter(told.anomalous == 1)),
    ]  # fmt: skip
    for one in taken:
        np.testing.assert_array_equal(one.head.weight, head.weight)
        np.testing.assert_array_equal(one.head.bias, head.bias)
    np.testing.assert_array_equal(head.logits(np.array([[1.0, 2.0]])), [[3.0, 9.0, 15.0]])
