//! Every format, written and looked at; foreign readers are in `tests/foreign.rs`.

use super::*;
use calor_embed::{SparseVector, TokenMatrix};

fn columns() -> Vec<Column> {
    vec![
        Column { name: "fused".into(), kind: ColumnKind::Dense { len: 2 } },
        Column { name: "tokens".into(), kind: ColumnKind::Tokens { dim: 2 } },
        Column { name: "terms".into(), kind: ColumnKind::Sparse },
    ]
}

fn row(item_index: usize) -> Row {
    let x = item_index as f32;
    Row {
        item_index,
        id: format!("r{item_index}"),
        content_hash: 7,
        text: Some("text".into()),
        cells: vec![
            Cell::Dense(vec![x, x + 0.5]),
            Cell::Tokens(TokenMatrix::new(vec![x; 4], 2).unwrap()),
            Cell::Sparse(SparseVector::new(vec![1, 9], vec![x, 1.0]).unwrap()),
        ],
        details: serde_json::Map::new(),
    }
}

/// Names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write(path: &Path, columns: &[Column], rows: &[Row]) -> Result<(), OutputError> {
    let mut file = OutputFile::reserve(path)?.start(columns)?;
    rows.iter().try_for_each(|it| file.write(it))?;
    file.finish(&[("profile", "mini".into())])
}

/// Rows reduced to the column with this index.
fn only(rows: &[Row], index: usize) -> Vec<Row> {
    rows.iter().map(|it| Row { cells: vec![it.cells[index].clone()], ..it.clone() }).collect()
}

#[test]
fn files_appear_whole_and_alone() {
    let root = tempfile::tempdir().unwrap();
    let (columns, rows) = (columns(), [row(0), row(2)]);
    write(&root.path().join("a.jsonl"), &columns, &rows).unwrap();
    write(&root.path().join("a.parquet"), &columns, &rows).unwrap();
    write(&root.path().join("a.npy"), &columns[..1], &only(&rows, 0)).unwrap();
    write(&root.path().join("a.safetensors"), &columns[1..2], &only(&rows, 1)).unwrap();
    assert_eq!(
        names(root.path()),
        ["a.jsonl", "a.npy", "a.npy.json", "a.parquet", "a.safetensors",]
    );
    let text = std::fs::read_to_string(root.path().join("a.jsonl")).unwrap();
    let second: serde_json::Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!(second["fused"], serde_json::json!([2.0, 2.5]));
    assert_eq!(second["terms"]["indices"], serde_json::json!([1, 9]));
    assert_eq!(second["content_hash"], "0000000000000007");
    let npy = std::fs::read(root.path().join("a.npy")).unwrap();
    assert_eq!(npy.len(), 128 + 4 * 4);
    assert!(String::from_utf8_lossy(&npy).contains("'shape': (2, 2)"));
}

#[test]
fn nothing_is_left_of_a_file_that_was_not_finished() {
    let root = tempfile::tempdir().unwrap();
    for extension in ["jsonl", "parquet"] {
        let path = root.path().join("a").with_extension(extension);
        std::fs::write(&path, "before").unwrap();
        let mut file = OutputFile::reserve(&path).unwrap().start(&columns()).unwrap();
        file.write(&row(0)).unwrap();
        drop(file);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before");
    }
    assert_eq!(names(root.path()), ["a.jsonl", "a.parquet"]);
}

#[track_caller]
fn check(name: &str, columns: &[Column], rows: &[Row], want: &str) {
    let root = tempfile::tempdir().unwrap();
    let err = write(&root.path().join(name), columns, rows).unwrap_err().to_string();
    assert!(err.contains(want), "wanted `{want}`, got `{err}`");
    assert!(names(root.path()).is_empty());
}

#[test]
fn what_does_not_fit_is_refused() {
    let all = columns();
    check("a.txt", &all, &[], "its format is not known");
    check("x/a.npy", &all[..1], &[], "the folder of");
    check("a.npy", &all, &[], "one vector an item");
    check("a.npy", &all[1..2], &[], "one vector an item");
    check("a.safetensors", &all, &[], "no room for `terms`");
    let mut short = row(3);
    short.cells[0] = Cell::Dense(vec![1.0]);
    check("a.jsonl", &all, &[short], "row 3 does not fit column `fused`");
    let mut gap = row(3);
    gap.cells = vec![Cell::Absent];
    check("a.npy", &all[..1], &[gap], "row 3 does not fit");
}

#[test]
fn an_empty_file_is_a_file() {
    let root = tempfile::tempdir().unwrap();
    for extension in ["jsonl", "npy", "parquet", "safetensors"] {
        let path = root.path().join("a").with_extension(extension);
        write(&path, &columns()[..1], &[]).unwrap();
        assert!(path.is_file(), "{extension}");
    }
}
