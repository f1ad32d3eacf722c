//! Readers of what the command is given: one stream of items, each with its place.
//!
//! A bad item is a fault in its own place and the stream goes on; only a file that cannot be
//! read at all ends it. Records are bounded by [`ReadLimits`], so a file of any size streams
//! through the same memory. What is read is not embedded here.

mod bounded;
mod comma;
mod fault;
mod image;
mod item;
mod json;
mod lines;
mod parquet;

use std::{
    fs::File,
    io::{BufReader, stdin},
    path::{Path, PathBuf},
};

pub use comma::read_csv;
pub use fault::{InputError, ItemFault};
pub use image::read_image;
pub use item::{Content, InputItem, Place};
pub use json::read_jsonl;
pub use lines::read_txt;
pub use parquet::read_parquet;

use calor_embed::input::{ImageFormat, LongText};

/// A stream of items. An error is of the whole source and ends it.
pub type Items = Box<dyn Iterator<Item = Result<InputItem, InputError>>>;

/// What may pass, and what happens to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimits {
    /// Most bytes of a text.
    pub text_bytes_max: usize,
    /// Most bytes of a line or cell that has to be kept whole to be understood.
    pub record_bytes_max: usize,
    /// Most bytes of an image file.
    pub image_bytes_max: usize,
    /// What happens to a longer text.
    pub long_text: LongText,
}

impl ReadLimits {
    /// 64 KiB of text, 32 MiB of record or image; long texts are cut.
    pub const STANDARD: Self = Self {
        text_bytes_max: 64 << 10,
        record_bytes_max: 32 << 20,
        image_bytes_max: 32 << 20,
        long_text: LongText::Truncate,
    };
}

/// How a source is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputFormat {
    /// One text a line.
    Txt,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
    /// Parquet.
    Parquet,
    /// One image.
    Image(ImageFormat),
}

impl InputFormat {
    /// Of a word that is the name of a file: one word with a known extension.
    pub fn of_word(word: &str) -> Option<Self> {
        let is_name = !word.contains(char::is_whitespace) && !word.starts_with('.');
        is_name.then(|| Self::of_path(Path::new(word))).flatten()
    }

    /// By the file's extension.
    pub fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        FORMATS.iter().find(|(name, _)| *name == extension).map(|(_, format)| *format)
    }
}

/// Extensions that are understood, in the order in which messages list them.
pub static FORMATS: &[(&str, InputFormat)] = &[
    ("txt", InputFormat::Txt),
    ("jsonl", InputFormat::Jsonl),
    ("ndjson", InputFormat::Jsonl),
    ("csv", InputFormat::Csv),
    ("parquet", InputFormat::Parquet),
    ("png", InputFormat::Image(ImageFormat::Png)),
    ("jpg", InputFormat::Image(ImageFormat::Jpeg)),
    ("jpeg", InputFormat::Image(ImageFormat::Jpeg)),
    ("webp", InputFormat::Image(ImageFormat::WebP)),
    ("gif", InputFormat::Image(ImageFormat::Gif)),
];

/// Where items come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Texts of the command line.
    Arguments(Vec<String>),
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// How an origin is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Instead of what the file's extension says. Standard input is text lines without it.
    pub format: Option<InputFormat>,
    /// The column of texts in .csv and .parquet.
    pub column: String,
    /// Limits of one item.
    pub limits: ReadLimits,
}

/// Opens an origin.
///
/// # Errors
/// [`InputError`] for a file that is not there, has no known format or no such column.
pub fn open(origin: &Origin, options: &ReadOptions) -> Result<Items, InputError> {
    let limits = options.limits;
    match origin {
        Origin::Arguments(texts) => Ok(Box::new(from_arguments(texts.clone(), limits))),
        Origin::Stdin => {
            let input = BufReader::new(stdin());
            match options.format.unwrap_or(InputFormat::Txt) {
                InputFormat::Txt => Ok(Box::new(read_txt(input, "stdin", limits))),
                InputFormat::Jsonl => {
                    Ok(Box::new(read_jsonl(input, "stdin", Path::new(""), limits)))
                }
                InputFormat::Csv => {
                    Ok(Box::new(read_csv(input, "stdin", &options.column, limits)?))
                }
                InputFormat::Parquet | InputFormat::Image(_) => Err(InputError::NotAStream),
            }
        }
        Origin::File(path) => open_file(path, options),
    }
}

fn open_file(path: &Path, options: &ReadOptions) -> Result<Items, InputError> {
    let limits = options.limits;
    let unknown = || InputError::UnknownFormat { path: path.into() };
    let format = options.format.or_else(|| InputFormat::of_path(path)).ok_or_else(unknown)?;
    let open = || {
        let file = File::open(path).map_err(|source| InputError::file(path, source))?;
        match file.metadata() {
            Ok(it) if it.is_dir() => Err(InputError::IsDirectory { path: path.into() }),
            Ok(_) => Ok(file),
            Err(source) => Err(InputError::file(path, source)),
        }
    };
    let name = path.display().to_string();
    match format {
        InputFormat::Txt => Ok(Box::new(read_txt(BufReader::new(open()?), &name, limits))),
        InputFormat::Jsonl => {
            let folder = path.parent().unwrap_or(Path::new(""));
            Ok(Box::new(read_jsonl(BufReader::new(open()?), &name, folder, limits)))
        }
        InputFormat::Csv => {
            Ok(Box::new(read_csv(BufReader::new(open()?), &name, &options.column, limits)?))
        }
        InputFormat::Parquet => {
            Ok(Box::new(read_parquet(open()?, &name, &options.column, limits)?))
        }
        InputFormat::Image(format) => {
            let content = read_image(open()?, format, limits);
            let place = Place::whole(&name);
            Ok(Box::new(std::iter::once(Ok(InputItem::new(place, content)))))
        }
    }
}

fn from_arguments(
    texts: Vec<String>,
    limits: ReadLimits,
) -> impl Iterator<Item = Result<InputItem, InputError>> {
    (1_u64..).zip(texts).map(move |(number, text)| {
        let place = Place::numbered("argument", number);
        let mut item = InputItem::new(place, Err(ItemFault::Empty));
        item.set_text(text.into_bytes(), false, &limits);
        Ok(item)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_unique_and_case_is_ignored() {
        for (index, (name, _)) in FORMATS.iter().enumerate() {
            assert!(FORMATS[..index].iter().all(|it| it.0 != *name), "{name}");
        }
        assert_eq!(InputFormat::of_path(Path::new("a/B.JSONL")), Some(InputFormat::Jsonl));
        assert_eq!(InputFormat::of_path(Path::new("a.docx")), None);
        assert_eq!(InputFormat::of_word("a/b.csv"), Some(InputFormat::Csv));
        for word in ["read a.txt", "a", ".txt", "e.g.", "txt"] {
            assert_eq!(InputFormat::of_word(word), None, "{word}");
        }
    }

    #[test]
    fn a_source_that_cannot_be_read_is_an_error_of_the_run() {
        let options =
            ReadOptions { format: None, column: "text".into(), limits: ReadLimits::STANDARD };
        let root = tempfile::tempdir().unwrap();
        let check = |path: PathBuf, want: &str| {
            let found = open(&Origin::File(path), &options).map(|_| ()).unwrap_err().to_string();
            assert!(found.contains(want), "wanted `{want}`, got `{found}`");
        };
        check(root.path().join("absent.txt"), "does not exist");
        check(root.path().join("file.docx"), "format is not known");
        std::fs::create_dir(root.path().join("folder.txt")).unwrap();
        check(root.path().join("folder.txt"), "is a directory");
        std::fs::write(root.path().join("cut.parquet"), "PAR1 and no more").unwrap();
        check(root.path().join("cut.parquet"), "is not a Parquet file");
    }

    #[test]
    fn arguments_are_items() {
        let origin = Origin::Arguments(vec!["one".into(), "".into()]);
        let options =
            ReadOptions { format: None, column: "text".into(), limits: ReadLimits::STANDARD };
        let items: Vec<InputItem> =
            open(&origin, &options).unwrap().collect::<Result<_, _>>().unwrap();
        assert!(items[0].content.is_ok());
        assert_eq!(items[1].place.to_string(), "argument 2");
        assert_eq!(items[1].content, Err(ItemFault::Empty));
    }
}
