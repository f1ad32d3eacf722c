//! What is searched: texts that are embedded now, or vectors that were written before.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use calor_embed::{ModelId, ModelInput, SparseVector, TokenMatrix};
use serde_json::Value as Json;

use super::key_of;
use crate::{
    answer,
    arguments::{SearchArguments, SearchBy},
    embed::{PipelineEngine, model_input},
    exit::{Exit, Failure, chain},
    input::{self, Content, InputError, InputItem, Items, Origin, ReadLimits, ReadOptions},
    interrupt,
};

/// Texts that are embedded at once.
const CHUNK_LEN: usize = 128;
/// Most bytes of a line of vectors.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// What is searched.
pub(super) struct Corpus {
    pub(super) entries: Vec<Entry>,
    pub(super) keys: Keys,
    pub(super) failed_count: usize,
}

/// One text of it.
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) text: Option<String>,
}

/// What one item is compared by.
pub(super) enum Key {
    Dense(Vec<f32>),
    Sparse(SparseVector),
    Tokens(TokenMatrix),
}

/// What all items are compared by.
pub(super) enum Keys {
    Dense { rows: Vec<f32>, len: usize },
    Sparse(Vec<SparseVector>),
    Tokens(Vec<TokenMatrix>),
}

/// A corpus that was found, not read.
pub(super) enum Source {
    Texts(Items),
    Vectors(BufReader<File>),
}

impl Source {
    /// Looks at the file's first line to see what it is.
    pub(super) fn open(arguments: &SearchArguments) -> Result<Self, Failure> {
        let path = &arguments.corpus;
        if path.extension().is_some_and(|it| it == "jsonl") && holds_vectors(path)? {
            let file = File::open(path).map_err(|err| InputError::file(path, err))?;
            return Ok(Self::Vectors(BufReader::new(file)));
        }
        let options = ReadOptions {
            format: None,
            column: arguments.column.clone(),
            limits: ReadLimits::STANDARD,
        };
        Ok(Self::Texts(input::open(&Origin::File(path.clone()), &options)?))
    }

    /// Reads the corpus; texts are embedded.
    pub(super) fn read(
        self,
        arguments: &SearchArguments,
        engine: &mut PipelineEngine,
        quiet: bool,
    ) -> Result<Corpus, Failure> {
        let mut corpus = Corpus::empty(arguments.by);
        match self {
            Self::Texts(items) => corpus.embed(items, arguments.by, engine, quiet)?,
            Self::Vectors(input) => corpus.read(input, arguments)?,
        }
        if corpus.entries.is_empty() {
            return Err(Failure::new(Exit::Input, "the corpus holds nothing to compare")
                .why(arguments.corpus.display()));
        }
        Ok(corpus)
    }
}

fn holds_vectors(path: &Path) -> Result<bool, Failure> {
    let file = File::open(path).map_err(|err| InputError::file(path, err))?;
    let mut line = Vec::new();
    let read =
        std::io::Read::take(BufReader::new(file), LINE_BYTES_MAX).read_until(b'\n', &mut line);
    read.map_err(|err| InputError::read(&path.display().to_string(), err))?;
    let first: Json = serde_json::from_slice(&line).unwrap_or_default();
    Ok(first.get("content_hash").is_some() && first.get("item_index").is_some())
}

impl Corpus {
    fn empty(by: SearchBy) -> Self {
        let keys = match by {
            SearchBy::Model(ModelId::Sparse) => Keys::Sparse(Vec::new()),
            SearchBy::Model(ModelId::LateInteraction) => Keys::Tokens(Vec::new()),
            SearchBy::Fused => Keys::Dense { rows: Vec::new(), len: calor_embed::FUSED_LEN },
            SearchBy::Model(it) => Keys::Dense { rows: Vec::new(), len: it.slot_dimension() },
        };
        Self { entries: Vec::new(), keys, failed_count: 0 }
    }

    fn fail(&mut self, place: &str, why: &str) {
        self.failed_count += 1;
        answer::remark(format!("calor: {place}: {why}"));
    }

    /// Adds an item; false when its key is not of the corpus's kind.
    fn add(&mut self, entry: Entry, key: Key) -> bool {
        match (&mut self.keys, key) {
            (Keys::Dense { rows, len }, Key::Dense(it)) if it.len() == *len => rows.extend(it),
            (Keys::Sparse(rows), Key::Sparse(it)) => rows.push(it),
            (Keys::Tokens(rows), Key::Tokens(it)) => rows.push(it),
            (Keys::Dense { .. } | Keys::Sparse(_) | Keys::Tokens(_), _) => return false,
        }
        self.entries.push(entry);
        true
    }

    fn embed(
        &mut self,
        mut items: Items,
        by: SearchBy,
        engine: &mut PipelineEngine,
        quiet: bool,
    ) -> Result<(), Failure> {
        let spinner = crate::progress::ItemSpinner::new(quiet);
        loop {
            let chunk: Vec<InputItem> = items.by_ref().take(CHUNK_LEN).collect::<Result<_, _>>()?;
            if interrupt::requested() {
                return Err(Failure::interrupted());
            }
            if chunk.is_empty() {
                return Ok(());
            }
            spinner.advance(chunk.len());
            let mut entries: Vec<(String, Entry)> = Vec::new();
            let mut inputs: Vec<ModelInput> = Vec::new();
            for item in chunk {
                let place = item.place.to_string();
                let made = item.content.map_err(|it| it.to_string()).and_then(|content| {
                    let text = match &content {
                        Content::Text { text, .. } | Content::Code { text, .. } => {
                            Some(text.clone())
                        }
                        Content::Ids(_) | Content::Image { .. } => None,
                    };
                    let input = model_input(&content).map_err(|it| it.to_string())?;
                    Ok((text, input))
                });
                match made {
                    Ok((text, input)) => {
                        let id = item.id.unwrap_or_else(|| place.clone());
                        entries.push((place, Entry { id, text }));
                        inputs.push(input);
                    }
                    Err(why) => self.fail(&place, &why),
                }
            }
            for ((place, entry), output) in entries.into_iter().zip(engine.outputs(&inputs)?) {
                match output.map(|it| key_of(&it, by)) {
                    Ok(Some(key)) => {
                        self.add(entry, key);
                    }
                    Ok(None) => self.fail(&place, &format!("no vector of {}", by.name())),
                    Err(err) => self.fail(&place, &chain(&err)),
                }
            }
        }
    }

    fn read(
        &mut self,
        mut input: impl BufRead,
        arguments: &SearchArguments,
    ) -> Result<(), Failure> {
        let source = arguments.corpus.display().to_string();
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let mut limited = std::io::Read::take(&mut input, LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut line);
            if read.map_err(|err| InputError::read(&source, err))? == 0 {
                break;
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let place = format!("{source}:{number}");
            let Ok(row) = serde_json::from_slice::<Json>(&line) else {
                self.fail(&place, "not a line that `calor embed` wrote");
                continue;
            };
            let profile = row.get("profile").and_then(Json::as_str).unwrap_or("(none)");
            if profile != arguments.run.profile.name() {
                return Err(Failure::usage(format!("{place} was embedded with profile {profile}"))
                    .why("vectors of different profiles cannot be compared")
                    .hint(format!("search with `--profile {profile}`")));
            }
            let text = |name: &str| row.get(name).and_then(Json::as_str).map(str::to_owned);
            let entry =
                Entry { id: text("id").unwrap_or_else(|| place.clone()), text: text("text") };
            let added = stored_key(&row, arguments.by).is_some_and(|key| self.add(entry, key));
            if !added {
                self.fail(&place, &format!("no vector of {}", arguments.by.name()));
            }
        }
        Ok(())
    }
}

/// A key from a line that `calor embed` wrote.
fn stored_key(row: &Json, by: SearchBy) -> Option<Key> {
    match by {
        SearchBy::Fused => floats(row.get("fused")?).map(Key::Dense),
        SearchBy::Model(ModelId::Sparse) => {
            let terms = row.get("sparse_terms")?;
            let index = |it: &Json| it.as_u64().and_then(|it| u32::try_from(it).ok());
            let indices = terms.get("indices")?.as_array()?.iter().map(index);
            let indices: Option<Vec<u32>> = indices.collect();
            SparseVector::new(indices?, floats(terms.get("values")?)?).ok().map(Key::Sparse)
        }
        SearchBy::Model(ModelId::LateInteraction) => {
            let rows = row.get("tokens")?.as_array()?;
            let rows: Option<Vec<Vec<f32>>> = rows.iter().map(floats).collect();
            let rows = rows?;
            let dim = rows.first()?.len();
            let same = rows.iter().all(|it| it.len() == dim);
            TokenMatrix::new(rows.concat(), dim).ok().filter(|_| same).map(Key::Tokens)
        }
        SearchBy::Model(model) => floats(row.get(model.as_str())?).map(Key::Dense),
    }
}

fn floats(value: &Json) -> Option<Vec<f32>> {
    value.as_array()?.iter().map(|it| it.as_f64().map(|it| it as f32)).collect()
}

#[test]
fn stored_keys_are_checked() {
    let row: Json = serde_json::from_str(
        r#"{"fused": [1.0, 2], "tokens": [[1, 2], [3]],
            "sparse_terms": {"indices": [3, 1], "values": [1, 1]}}"#,
    )
    .unwrap();
    assert!(matches!(stored_key(&row, SearchBy::Fused), Some(Key::Dense(it)) if it == [1.0, 2.0]));
    for model in [ModelId::Sparse, ModelId::LateInteraction, ModelId::Semantic] {
        assert!(stored_key(&row, SearchBy::Model(model)).is_none(), "{model}");
    }
}
