//! Lines of bounded length from a stream of any length.

use std::io::{self, BufRead};

/// What [`read_line`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing is left.
    End,
    /// A whole line.
    Whole,
    /// The beginning of a line; its rest was skipped.
    Cut,
}

/// Reads a line without its end (`\n` or `\r\n`) into `out`, at most `len_max` bytes of it.
pub(super) fn read_line(
    input: &mut impl BufRead,
    out: &mut Vec<u8>,
    len_max: usize,
) -> io::Result<Line> {
    out.clear();
    let (mut any, mut cut) = (false, false);
    loop {
        let buffer = match input.fill_buf() {
            Ok(it) => it,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
            Err(err) => return Err(err),
        };
        if buffer.is_empty() {
            break;
        }
        any = true;
        let end = buffer.iter().position(|it| *it == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        // One byte more than allowed, for a carriage return that does not count.
        let room = len_max.saturating_add(1).saturating_sub(out.len()).min(part.len());
        cut |= room < part.len();
        out.extend_from_slice(&part[..room]);
        let used = end.map_or(part.len(), |it| it + 1);
        input.consume(used);
        if end.is_some() {
            break;
        }
    }
    if !cut && out.last() == Some(&b'\r') {
        out.pop();
    }
    if len_max < out.len() {
        out.truncate(len_max);
        cut = true;
    }
    Ok(match (any, cut) {
        (false, _) => Line::End,
        (true, false) => Line::Whole,
        (true, true) => Line::Cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    #[track_caller]
    fn check(text: &str, len_max: usize, want: &[(&str, Line)]) {
        for buffer_len in [1, 2, 3, 100] {
            let mut input = BufReader::with_capacity(buffer_len, text.as_bytes());
            let (mut found, mut line) = (Vec::new(), Vec::new());
            loop {
                match read_line(&mut input, &mut line, len_max).unwrap() {
                    Line::End => break,
                    it => found.push((String::from_utf8(line.clone()).unwrap(), it)),
                }
            }
            let found: Vec<(&str, Line)> = found.iter().map(|it| (it.0.as_str(), it.1)).collect();
            assert_eq!(found, want, "for {text:?} in steps of {buffer_len}");
        }
    }

    #[test]
    fn lines_end_and_long_ones_are_cut() {
        check("", 4, &[]);
        check("a\nb", 4, &[("a", Line::Whole), ("b", Line::Whole)]);
        check("a\r\n\r\nb\n", 4, &[("a", Line::Whole), ("", Line::Whole), ("b", Line::Whole)]);
        check(
            "abcd\nabcde\nx",
            4,
            &[("abcd", Line::Whole), ("abcd", Line::Cut), ("x", Line::Whole)],
        );
        check("abcd\r\nabcd\re", 4, &[("abcd", Line::Whole), ("abcd", Line::Cut)]);
        check("abcdefghij", 4, &[("abcd", Line::Cut)]);
    }
}
