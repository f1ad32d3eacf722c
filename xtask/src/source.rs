//! Rust text split into what is code and what is not, and into functions.
//!
//! A lexer for comments and literals only. Rules that need to know types belong in the
//! compiler or in clippy.

use std::ops::Range;

/// One Rust file.
pub(crate) struct Source {
    /// The text with comments and the contents of literals blanked; lines stay where they are.
    pub(crate) code: String,
}

/// A function's place in its file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function {
    /// Its name alone.
    pub(crate) name: String,
    /// Line of `fn`, from one.
    pub(crate) line: usize,
    /// Lines of code from `fn` to its closing brace.
    pub(crate) code_line_count: usize,
}

impl Source {
    /// Reads `text`.
    pub(crate) fn new(text: &str) -> Self {
        Self { code: blank(text) }
    }

    /// Lines with code in them, not counting tests.
    pub(crate) fn code_line_count(&self) -> usize {
        self.before_tests().lines().filter(|it| !it.trim().is_empty()).count()
    }

    /// Code above the file's test module.
    pub(crate) fn before_tests(&self) -> &str {
        let mut offset = 0;
        let mut marked = None;
        for line in self.code.split_inclusive('\n') {
            if line.starts_with("#[cfg(test)]") {
                marked = Some(offset);
            } else if let Some(start) = marked {
                if line.starts_with("mod ") && line.contains('{') {
                    return &self.code[..start];
                }
                if !line.starts_with("#[") {
                    marked = None;
                }
            }
            offset += line.len();
        }
        &self.code
    }

    /// Functions above the file's test module; inner ones too.
    pub(crate) fn functions(&self) -> Vec<Function> {
        let code = self.before_tests();
        let words = words(code);
        let mut functions = Vec::new();
        for pair in words.windows(2) {
            let between = &code[pair[0].end..pair[1].start];
            if &code[pair[0].clone()] == "fn" && between.trim().is_empty() {
                let Some(end) = body_end(code, pair[1].end) else { continue };
                let lines = code[pair[0].start..end].lines();
                functions.push(Function {
                    name: code[pair[1].clone()].to_owned(),
                    line: line_of(code, pair[0].start),
                    code_line_count: lines.filter(|it| !it.trim().is_empty()).count(),
                });
            }
        }
        functions
    }

    /// Lines, from one, where `word` stands by itself in code.
    pub(crate) fn lines_with_word(&self, word: &str) -> Vec<usize> {
        let mut lines: Vec<usize> = self
            .code
            .match_indices(word)
            .filter(|(at, _)| is_alone(&self.code, *at, word.len()))
            .map(|(at, _)| line_of(&self.code, at))
            .collect();
        lines.dedup();
        lines
    }
}

/// Line, from one, of byte `at`.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].bytes().filter(|it| *it == b'\n').count() + 1
}

/// Whether the `len` bytes at `at` touch no further character of an identifier.
pub(crate) fn is_alone(text: &str, at: usize, len: usize) -> bool {
    let is_part = |it: char| it.is_alphanumeric() || it == '_';
    let word = &text[at..at + len];
    let before = text[..at].chars().next_back().is_some_and(is_part) && word.starts_with(is_part);
    let after = text[at + len..].chars().next().is_some_and(is_part) && word.ends_with(is_part);
    !before && !after
}

fn words(code: &str) -> Vec<Range<usize>> {
    let is_part = |it: u8| it.is_ascii_alphanumeric() || it == b'_' || !it.is_ascii();
    let bytes = code.as_bytes();
    let mut words = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        while at < bytes.len() && is_part(bytes[at]) {
            at += 1;
        }
        if start < at {
            words.push(start..at);
        } else {
            at += 1;
        }
    }
    words
}

/// End of the body that follows `from`; `None` for a signature without one.
fn body_end(code: &str, from: usize) -> Option<usize> {
    let mut nesting = 0_i32;
    let mut opened = false;
    for (at, it) in code[from..].bytes().enumerate() {
        match it {
            b'(' | b'[' => nesting += 1,
            b')' | b']' => nesting -= 1,
            b'{' => {
                opened = opened || nesting == 0;
                nesting += 1;
            }
            b'}' => {
                nesting -= 1;
                if opened && nesting == 0 {
                    return Some(from + at + 1);
                }
            }
            b';' if nesting == 0 => return None,
            _ => {}
        }
        if nesting < 0 {
            return None;
        }
    }
    None
}

/// Replaces comments and contents of literals by spaces.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let len = match skipped(rest, text[..at].chars().next_back()) {
            Some(len) => {
                out.extend(rest[..len].chars().map(|it| if it == '\n' { it } else { ' ' }));
                len
            }
            None => {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..first]);
                first
            }
        };
        at += len;
    }
    out
}

/// Length of the comment or literal that `rest` starts with.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    let line = || rest.find('\n').unwrap_or(rest.len());
    if rest.starts_with("//") {
        return Some(line());
    }
    if rest.starts_with("/*") {
        return Some(block_comment_len(rest));
    }
    if rest.starts_with('"') {
        return Some(string_len(rest));
    }
    if rest.starts_with('\'') {
        return character_len(rest);
    }
    let in_word = before.is_some_and(|it| it.is_alphanumeric() || it == '_');
    let prefix = ["br", "cr", "r"].into_iter().find(|it| rest.starts_with(it))?;
    let hashes = rest[prefix.len()..].bytes().take_while(|it| *it == b'#').count();
    let opening = prefix.len() + hashes;
    if in_word || !rest[opening..].starts_with('"') {
        return None;
    }
    let closing = format!("\"{}", "#".repeat(hashes));
    let body = &rest[opening + 1..];
    Some(body.find(&closing).map_or(rest.len(), |end| opening + 1 + end + closing.len()))
}

fn block_comment_len(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, it) in rest.char_indices().skip(1) {
        match it {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `None` when the quote starts a lifetime.
fn character_len(rest: &str) -> Option<usize> {
    let mut inner = rest.char_indices().skip(1);
    let (_, first) = inner.next()?;
    if first == '\\' {
        inner.next()?;
        return rest[3..].find('\'').map(|end| 3 + end + 1);
    }
    let (at, second) = inner.next()?;
    (second == '\'').then_some(at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_code(text: &str, code: &str) {
        let got = Source::new(text).code;
        assert_eq!(got.split_whitespace().collect::<Vec<_>>().join(" "), code, "for {text}");
        assert_eq!(got.lines().count(), text.lines().count());
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        check_code("a // b\nc", "a c");
        check_code("a /* b /* c */ d */ e", "a e");
        check_code("f(\"x \\\" y\", 'z', '\\'', '\\u{1F600}')", "f( , , , )");
        check_code("f(r#\"x \" y\"#, br\"z\", b\"w\")", "f( , , b )");
        check_code("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check_code("for_r \"x\"", "for_r");
    }

    #[test]
    fn functions_are_measured_without_comments() {
        let text = "trait T { fn a(&self); }\n\
                    fn b(x: [u8; 2]) -> u8 {\n    // note\n\n    x[0]\n}\n\
                    #[cfg(test)]\nmod tests {\n    fn c() {}\n}\n";
        let functions = Source::new(text).functions();
        assert_eq!(functions, [Function { name: "b".into(), line: 2, code_line_count: 3 }]);
        assert_eq!(Source::new(text).code_line_count(), 4);
    }

    #[test]
    fn a_test_helper_does_not_end_the_code() {
        let text = "#[cfg(test)]\nuse a::b;\nfn c() {}\n";
        assert_eq!(Source::new(text).functions().len(), 1);
    }

    #[test]
    fn words_stand_alone() {
        let source = Source::new("todo!(); my_todo!(); // todo!\n x.todo");
        assert_eq!(source.lines_with_word("todo!"), [1]);
        assert_eq!(source.lines_with_word("todo"), [1, 2]);
    }
}
