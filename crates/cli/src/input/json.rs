//! JSON lines: `{"text": …}`, `{"code": …, "language": …}`, `{"input_ids": […]}` or
//! `{"image": "path"}`, each with an optional `id`, texts with an optional `instruction`.

use std::{fs::File, io::BufRead, path::Path, path::PathBuf, sync::Arc};

use serde::Deserialize;

use super::{
    Content, InputError, InputFormat, InputItem, ItemFault, Place, ReadLimits,
    bounded::{Line, read_line},
    item::admit,
    lines::BYTE_ORDER_MARK,
    read_image,
};

/// Reads items, one JSON object a line; blank lines are no items. Other fields than ours are
/// passed over. Paths of images are relative to `folder`.
pub fn read_jsonl<R: BufRead>(
    mut input: R,
    source: &str,
    folder: &Path,
    limits: ReadLimits,
) -> impl Iterator<Item = Result<InputItem, InputError>> + use<R> {
    let source: Arc<str> = source.into();
    let folder: PathBuf = folder.into();
    let mut number = 0;
    let mut line = Vec::new();
    let mut ended = false;
    std::iter::from_fn(move || {
        while !ended {
            let found = match read_line(&mut input, &mut line, limits.record_bytes_max) {
                Ok(it) => it,
                Err(err) => {
                    ended = true;
                    return Some(Err(InputError::read(&source, err)));
                }
            };
            number += 1;
            let place = Place::line(&source, number);
            match found {
                Line::End => ended = true,
                Line::Cut => {
                    let fault = ItemFault::TooLong { limit_bytes: limits.record_bytes_max };
                    return Some(Ok(InputItem::new(place, Err(fault))));
                }
                Line::Whole => {
                    let mark = if number == 1 { BYTE_ORDER_MARK } else { b"" };
                    let line = line.strip_prefix(mark).unwrap_or(&line);
                    if !line.trim_ascii().is_empty() {
                        return Some(Ok(item(place, line, &folder, &limits)));
                    }
                }
            }
        }
        None
    })
}

/// The fields that are ours.
#[derive(Deserialize)]
struct Fields {
    id: Option<Id>,
    text: Option<String>,
    instruction: Option<String>,
    code: Option<String>,
    language: Option<String>,
    input_ids: Option<Vec<u32>>,
    image: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

fn item(place: Place, line: &[u8], folder: &Path, limits: &ReadLimits) -> InputItem {
    let mut item = InputItem::new(place, Err(ItemFault::NoContent));
    if let Err(err) = std::str::from_utf8(line) {
        item.content = Err(ItemFault::NotUtf8 { byte_index: err.valid_up_to() });
        return item;
    }
    // The derived reader takes arrays too, field by field; only objects are items.
    let first = line.trim_ascii_start().first();
    let fields: Fields = match serde_json::from_slice(line) {
        Ok(it) if first == Some(&b'{') => it,
        Ok(_) => {
            item.content = Err(ItemFault::Json { column: 1, reason: "not an object".into() });
            return item;
        }
        Err(err) => {
            let text = err.to_string();
            let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
            item.content = Err(ItemFault::Json { column: err.column(), reason });
            return item;
        }
    };
    item.id = fields.id.as_ref().map(|it| match it {
        Id::Number(number) => number.to_string(),
        Id::Text(text) => text.clone(),
    });
    item.content = content(fields, folder, limits, &mut item.truncated);
    item
}

fn content(
    fields: Fields,
    folder: &Path,
    limits: &ReadLimits,
    truncated: &mut bool,
) -> Result<Content, ItemFault> {
    let Fields { id: _, text, instruction, code, language, input_ids, image } = fields;
    let want_absent = |there: bool, field, want| match there {
        true => Err(ItemFault::Companion { field, want }),
        false => Ok(()),
    };
    want_absent(language.is_some() && code.is_none(), "language", "goes with `code` only")?;
    want_absent(instruction.is_some() && text.is_none(), "instruction", "goes with `text` only")?;
    match (text, code, input_ids, image) {
        (None, None, None, None) => Err(ItemFault::NoContent),
        (Some(text), None, None, None) => {
            let (text, cut) = admit(text.into_bytes(), false, limits)?;
            *truncated = cut;
            Ok(Content::Text { text, instruction })
        }
        (None, Some(code), None, None) => {
            let want = "is needed beside `code`";
            let language = language.ok_or(ItemFault::Companion { field: "language", want })?;
            let (text, cut) = admit(code.into_bytes(), false, limits)?;
            *truncated = cut;
            Ok(Content::Code { text, language })
        }
        (None, None, Some(ids), None) if ids.is_empty() => Err(ItemFault::Empty),
        (None, None, Some(ids), None) => Ok(Content::Ids(ids)),
        (None, None, None, Some(image)) => open_image(&folder.join(image), limits),
        _ => Err(ItemFault::TwoContents),
    }
}

fn open_image(path: &Path, limits: &ReadLimits) -> Result<Content, ItemFault> {
    let Some(InputFormat::Image(format)) = InputFormat::of_path(path) else {
        return Err(ItemFault::ImageFormat { path: path.into() });
    };
    let fault = |reason: String| ItemFault::Image { path: path.into(), reason };
    // A pipe or a device would block or never end.
    match std::fs::metadata(path) {
        Ok(it) if it.is_file() => {}
        Ok(_) => return Err(fault("not a file".into())),
        Err(err) => return Err(fault(err.to_string())),
    }
    let file = File::open(path).map_err(|err| fault(err.to_string()))?;
    read_image(file, format, *limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &[u8], want: &str) {
        let limits = ReadLimits { record_bytes_max: 100, ..ReadLimits::STANDARD };
        let items: Vec<InputItem> =
            read_jsonl(line, "f", Path::new(""), limits).map(Result::unwrap).collect();
        assert_eq!(items.len(), 1, "for {}", String::from_utf8_lossy(line));
        let found = match &items[0].content {
            Ok(it) => format!("{it:?}"),
            Err(fault) => fault.to_string(),
        };
        assert!(found.contains(want), "wanted `{want}`, got `{found}`");
    }

    #[test]
    fn each_kind_of_item_is_read() {
        check(br#"{"text": "a", "instruction": "role:query", "other": [1]}"#, "role:query");
        check(br#"{"code": "a", "language": "rust"}"#, r#"Code { text: "a", language: "rust" }"#);
        check(br#"{"input_ids": [1, 2]}"#, "Ids([1, 2])");
    }

    #[test]
    fn what_is_wrong_is_said() {
        check(br#"{"text": "a""#, "not an item as JSON: EOF while parsing an object, at column 12");
        check(br#"{"text": 3}"#, "invalid type: integer `3`, expected a string, at column 10");
        check(br#"{"text": "a", "text": "b"}"#, "duplicate field `text`");
        check(br#"{"text": ""}"#, "empty");
        check(br#"{"text": "a\u0000"}"#, "byte 1 is NUL");
        check(br#"{"text": "\ud800"}"#, "not an item as JSON");
        check(b"{\"text\": \"\xff\"}", "byte 10 is not UTF-8");
        check(b"\"text\"", "not an item as JSON");
        check(b"[null,null,null,null,null,null,null]", "not an object");
        check(b"{}", "none of the fields");
        check(br#"{"text": "a", "input_ids": [1]}"#, "more than one");
        check(br#"{"input_ids": []}"#, "empty");
        check(br#"{"input_ids": [-1]}"#, "not an item as JSON");
        check(br#"{"code": "a"}"#, "`language` is needed beside `code`");
        check(br#"{"image": "a.tiff"}"#, "a.tiff: not .png");
        check(br#"{"image": "absent.png"}"#, "absent.png: No such file");
        check(&[b'['; 90], "not an item as JSON");
        check(&[b'x'; 200], "longer than 100 bytes");
    }

    #[test]
    fn a_bad_line_fails_alone() {
        let text =
            b"\xef\xbb\xbf{\"id\": 7, \"text\": \"a\"}\r\n\r\n{\n{\"id\": \"x\", \"text\": \"b\"}";
        let items: Vec<InputItem> = read_jsonl(&text[..], "f", Path::new(""), ReadLimits::STANDARD)
            .map(Result::unwrap)
            .collect();
        let places: Vec<String> = items.iter().map(|it| it.place.to_string()).collect();
        assert_eq!(places, ["f:1", "f:3", "f:4"]);
        assert!(items[0].content.is_ok() && items[1].content.is_err() && items[2].content.is_ok());
        assert_eq!([items[0].id.as_deref(), items[2].id.as_deref()], [Some("7"), Some("x")]);
    }
}
