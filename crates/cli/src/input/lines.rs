//! Plain text: one text a line. Blank lines separate and are no items.

use std::{io::BufRead, sync::Arc};

use super::{
    InputError, InputItem, ItemFault, Place, ReadLimits,
    bounded::{Line, read_line},
};

/// Reads texts, one a line. `source` names the stream in places.
pub fn read_txt<R: BufRead>(
    mut input: R,
    source: &str,
    limits: ReadLimits,
) -> impl Iterator<Item = Result<InputItem, InputError>> + use<R> {
    let source: Arc<str> = source.into();
    let mut number = 0;
    let mut line = Vec::new();
    let mut ended = false;
    std::iter::from_fn(move || {
        while !ended {
            // A mark that does not count may precede the first line.
            let mark_len = if number == 0 { BYTE_ORDER_MARK.len() } else { 0 };
            let len_max = limits.text_bytes_max.saturating_add(mark_len);
            let found = match read_line(&mut input, &mut line, len_max) {
                Ok(it) => it,
                Err(err) => {
                    ended = true;
                    return Some(Err(InputError::read(&source, err)));
                }
            };
            if found == Line::End {
                ended = true;
                break;
            }
            number += 1;
            if number == 1 && line.starts_with(BYTE_ORDER_MARK) {
                line.drain(..BYTE_ORDER_MARK.len());
            }
            if line.trim_ascii().is_empty() && found == Line::Whole {
                continue;
            }
            let mut item = InputItem::new(Place::line(&source, number), Err(ItemFault::Empty));
            item.set_text(std::mem::take(&mut line), found == Line::Cut, &limits);
            return Some(Ok(item));
        }
        None
    })
}

/// What some editors put before UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::Content;

    #[test]
    fn every_line_keeps_its_number() {
        let limits = ReadLimits { text_bytes_max: 5, ..ReadLimits::STANDARD };
        let text = b"\xef\xbb\xbfone\n\n  \nt\xffo\nlong line\nz\0";
        let items: Vec<InputItem> =
            read_txt(&text[..], "f.txt", limits).map(Result::unwrap).collect();
        let found: Vec<String> = items
            .iter()
            .map(|it| match &it.content {
                Ok(Content::Text { text, .. }) => format!("{} {text} {}", it.place, it.truncated),
                Ok(other) => format!("{other:?}"),
                Err(fault) => format!("{} {fault}", it.place),
            })
            .collect();
        assert_eq!(
            found,
            [
                "f.txt:1 one false",
                "f.txt:4 byte 1 is not UTF-8",
                "f.txt:5 long  true",
                "f.txt:6 byte 1 is NUL",
            ]
        );
    }
}
