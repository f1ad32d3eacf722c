//! Files that other programs wrote are read, and what is written is read by them.
//!
//! Needs a Python with pyarrow, numpy and safetensors, named in CALOR_TEST_PYTHON; says so
//! where there is none.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::{path::Path, process::Command};

use calor_cli::{
    input::{Content, ItemFault, Origin, ReadLimits, ReadOptions, open},
    output::{Cell, Column, ColumnKind, OutputFile, Row},
};
use calor_embed::{SparseVector, TokenMatrix};

/// Runs a script with a folder as its argument; false where there is no Python.
#[expect(clippy::disallowed_methods, reason = "a test is told where its Python is")]
fn python(test: &str, script: &str, dir: &Path) -> bool {
    let Ok(python) = std::env::var("CALOR_TEST_PYTHON") else {
        eprintln!("SKIPPED {test}: CALOR_TEST_PYTHON is not set");
        return false;
    };
    let output = Command::new(python).arg("-c").arg(script).arg(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

const READ: &str = r#"
import sys, json, numpy, pyarrow.parquet as pq
from safetensors import safe_open
d = sys.argv[1]
table = pq.read_table(d + "/a.parquet")
rows = table.to_pylist()
assert table.num_rows == 600, table.num_rows
assert [r["id"] for r in rows[:2]] == ["r0", "r1"], rows[:2]
assert rows[1]["content_hash"] == "00000000000000ff", rows[1]
assert rows[0]["text"] == "text" and rows[1]["text"] is None
assert rows[3]["fused"] == [3.0, 3.5], rows[3]
assert rows[2]["tokens"] == [[2.0, 2.0]] * 3, rows[2]
assert rows[4]["terms_indices"] == [1, 3000000000], rows[4]
assert rows[4]["terms_values"] == [4.0, 1.0], rows[4]
assert rows[5]["tokens"] == [] and rows[5]["terms_values"] == [], rows[5]
meta = table.schema.metadata
assert json.loads(meta[b"calor.untrained"]) == ["fusion"], meta
a = numpy.load(d + "/a.npy")
assert a.shape == (600, 2) and a.dtype == numpy.float32 and a[599].tolist() == [599.0, 599.5]
with safe_open(d + "/a.safetensors", "numpy") as f:
    e = f.get_tensor("embeddings")
    assert e.shape == (600, 2) and e[7].tolist() == [7.0, 7.5]
    assert f.get_tensor("tokens.2").shape == (3, 2)
    assert f.metadata()["untrained"] == '["fusion"]', f.metadata()
"#;

fn row(item_index: usize, gap: bool) -> Row {
    let x = item_index as f32;
    let count = item_index % 3 + 1;
    let tokens = Cell::Tokens(TokenMatrix::new(vec![x; 2 * count], 2).unwrap());
    let terms = Cell::Sparse(SparseVector::new(vec![1, 3_000_000_000], vec![x, 1.0]).unwrap());
    Row {
        item_index,
        id: format!("r{item_index}"),
        content_hash: 255,
        text: item_index.is_multiple_of(2).then(|| "text".into()),
        cells: vec![
            Cell::Dense(vec![x, x + 0.5]),
            if gap { Cell::Absent } else { tokens },
            if gap { Cell::Absent } else { terms },
        ],
        details: serde_json::Map::new(),
    }
}

fn write(path: &Path, columns: &[Column], gaps: bool) {
    let mut file = OutputFile::reserve(path).unwrap().start(columns).unwrap();
    for index in 0..600 {
        let mut row = row(index, gaps && index == 5);
        row.cells.truncate(columns.len());
        file.write(&row).unwrap();
    }
    file.finish(&[("untrained", "[\"fusion\"]".into())]).unwrap();
}

#[test]
fn files_are_read_by_others() {
    let root = tempfile::tempdir().unwrap();
    let columns = [
        Column { name: "fused".into(), kind: ColumnKind::Dense { len: 2 } },
        Column { name: "tokens".into(), kind: ColumnKind::Tokens { dim: 2 } },
        Column { name: "terms".into(), kind: ColumnKind::Sparse },
    ];
    write(&root.path().join("a.parquet"), &columns, true);
    write(&root.path().join("a.npy"), &columns[..1], false);
    write(&root.path().join("a.safetensors"), &columns[..2], false);
    python("cli::pyarrow", READ, root.path());
}

const WRITE: &str = r#"
import sys, pyarrow as pa, pyarrow.parquet as pq
d = sys.argv[1]
texts = [None if i == 3 else "" if i == 4 else f"text {i}" for i in range(1000)]
t = pa.table({"n": list(range(1000)), "body": texts, "id": [f"k{i}" for i in range(1000)]})
pq.write_table(t, d + "/snappy.parquet", row_group_size=300, compression="snappy")
pq.write_table(t, d + "/plain.parquet", compression="none", use_dictionary=False)
pq.write_table(t, d + "/gzip.parquet", compression="gzip", data_page_version="2.0")
b = pa.table({"body": pa.array([b"good", b"\xff", b"a\0"], pa.binary())})
pq.write_table(b, d + "/binary.parquet")
"#;

#[test]
fn files_of_others_are_read() {
    let root = tempfile::tempdir().unwrap();
    if !python("cli::pyarrow_files", WRITE, root.path()) {
        return;
    }
    let options = ReadOptions { format: None, column: "body".into(), limits: ReadLimits::STANDARD };
    let read = |name: &str| {
        let items = open(&Origin::File(root.path().join(name)), &options).unwrap();
        items.collect::<Result<Vec<_>, _>>().unwrap()
    };
    for name in ["snappy.parquet", "plain.parquet", "gzip.parquet"] {
        let items = read(name);
        assert_eq!(items.len(), 1000, "{name}");
        assert_eq!(items[3].content, Err(ItemFault::NoCell));
        assert_eq!(items[4].content, Err(ItemFault::Empty));
        let text = Content::Text { text: "text 999".into(), instruction: None };
        assert_eq!(items[999].content, Ok(text));
        assert_eq!(items[999].id.as_deref(), Some("k999"));
        assert!(items[999].place.to_string().ends_with(&format!("{name} row 1000")));
    }
    let items = read("binary.parquet");
    assert!(items[0].content.is_ok());
    assert_eq!(items[1].content, Err(ItemFault::NotUtf8 { byte_index: 0 }));
    assert_eq!(items[2].content, Err(ItemFault::Nul { byte_index: 1 }));
    let absent = ReadOptions { column: "n".into(), ..options };
    let found = open(&Origin::File(root.path().join("plain.parquet")), &absent);
    assert!(found.err().unwrap().to_string().contains(r#"it has ["body", "id"]"#));
}

#[test]
fn damaged_files_end_with_an_error_and_no_panic() {
    let root = tempfile::tempdir().unwrap();
    let columns = [Column { name: "fused".into(), kind: ColumnKind::Dense { len: 2 } }];
    let path = root.path().join("a.parquet");
    write(&path, &columns, false);
    let whole = std::fs::read(&path).unwrap();
    let options = ReadOptions { format: None, column: "text".into(), limits: ReadLimits::STANDARD };
    for seed in 0..400_usize {
        let mut bytes = whole.clone();
        for step in 0..4 {
            let place = (seed * 7919 + step * 104_729 + seed * seed * 31) % bytes.len();
            bytes[place] ^= (seed + step * 37) as u8 | 1;
        }
        bytes.truncate(bytes.len() - seed % 3);
        std::fs::write(&path, &bytes).unwrap();
        let Ok(items) = open(&Origin::File(path.clone()), &options) else { continue };
        assert!(items.take(100_000).count() < 100_000);
    }
}
