//! `calor embed`: items in, vectors out, and a report of how they came about.

mod checkpoint;
mod engine;
mod parity;
mod pipeline;
mod places;
mod recipe;
mod report;
mod table;

use std::path::PathBuf;
use std::sync::Arc;

use calor_embed::{EmbeddingResult, InferencePrecision, ModelInput, input::LongText};
use calor_telemetry::{Counters, Event, Label, Recorder, Stopwatch, counter::Plain};
use serde_json::Map;

pub(crate) use checkpoint::{open_build, open_embedder};
pub(crate) use engine::{Engine, Made};
pub(crate) use pipeline::{PipelineEngine, Wanted, model_input};
pub(crate) use places::{names, places};
pub(crate) use recipe::Recipe;

use crate::{
    answer,
    arguments::{EmbedArguments, FormatWord, InputArguments, PrecisionWord, RunArguments, TooLong},
    environment::Environment,
    exit::{Exit, Failure},
    input::{self, Content, InputFormat, InputItem, Items, Origin, ReadLimits, ReadOptions},
    interrupt,
    output::{Note, OutputFile, OutputFormat, Reserved, Row, row_to_json},
    progress::ItemSpinner,
    recording::Recording,
};
use checkpoint::CheckpointEngine;
use parity::Parity;
use report::Report;

/// Items that are embedded at once on a device.
const CHUNK_LEN: usize = 128;
/// Bytes of content that are embedded at once, unless a single item has more.
const CHUNK_BYTES: usize = 4 << 20;

/// Embeds what the arguments name.
///
/// # Errors
/// When the run as a whole fails; single items are in the report.
pub(crate) fn run(
    arguments: &EmbedArguments,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    let target = arguments.output.as_deref().map(OutputFile::reserve).transpose()?;
    let mut items = open_items(&arguments.inputs)?;
    let wanted = Wanted::of(arguments, target.as_ref().map(Reserved::format));
    let open = |runs: &[RunArguments]| -> Result<Box<dyn Engine>, Failure> {
        Ok(match &arguments.checkpoint.checkpoint {
            Some(_) => {
                Box::new(CheckpointEngine::open(arguments, &runs[0], environment, recording)?)
            }
            None => {
                Box::new(PipelineEngine::open(runs, wanted.clone(), environment, recording, quiet)?)
            }
        })
    };
    let places = places(&arguments.run, &arguments.devices)?;
    let mut engine = open(&places)?;
    let exact = || open(&[RunArguments { precision: PrecisionWord::F32, ..places[0].clone() }]);
    let about = engine.describe();
    let word = about.get("precision").and_then(|it| it.as_str());
    let precision = InferencePrecision::ALL.into_iter().find(|it| Some(it.word()) == word);
    // Codes of one byte do not suit every model, so each is judged.
    let narrow = matches!(arguments.run.precision, PrecisionWord::Fp8 | PrecisionWord::Int8);
    let check = arguments.check_precision || narrow;
    let parity = check.then(exact).transpose()?.map(|it| Parity::new(it, precision));
    let mut run = Run {
        recorder: recording.recorder(),
        counters: recording.counters.clone(),
        model: Label::fixed(match arguments.checkpoint.checkpoint {
            Some(_) => "checkpoint",
            None => "pipeline",
        }),
        parity,
        chunk_len: CHUNK_LEN * places.len(),
        shows: Shows::of(arguments),
        report: Report::new(),
        file: None,
        target,
        spinner: ItemSpinner::new(quiet),
    };
    run.all(&mut items, engine.as_mut(), arguments.inputs.instruction.as_deref())?;
    let Run { mut report, file, target, spinner, parity, .. } = run;
    drop(spinner);
    if report.item_count() == 0 {
        return Err(Failure::new(Exit::Input, "there is nothing to embed")
            .why("the input holds no item")
            .hint("see `calor embed --help` for what can be read"));
    }
    report.describe(engine.describe(), parity.map(|it| it.to_json()));
    let file = match (file, target) {
        (None, Some(target)) => Some(target.start(engine.columns())?),
        (file, _) => file,
    };
    if let Some(file) = file {
        file.finish(&report.notes())?;
    }
    report.tell(arguments, quiet)?;
    Ok(if report.has_failures() { Exit::SomeItems } else { Exit::Done })
}

/// What goes to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Nothing,
    Lines,
    Tables,
}

impl Shows {
    fn of(arguments: &EmbedArguments) -> Self {
        match (arguments.json, &arguments.output) {
            (true, _) => Self::Lines,
            (false, Some(_)) => Self::Nothing,
            (false, None) => Self::Tables,
        }
    }
}

/// A run on its way.
struct Run {
    recorder: Arc<dyn Recorder>,
    counters: Arc<Counters>,
    /// What requests are asked of.
    model: Label,
    parity: Option<Parity>,
    /// Items that are embedded at once.
    chunk_len: usize,
    shows: Shows,
    report: Report,
    target: Option<Reserved>,
    file: Option<OutputFile>,
    spinner: ItemSpinner,
}

impl Run {
    fn all(
        &mut self,
        items: &mut Items,
        engine: &mut dyn Engine,
        instruction: Option<&str>,
    ) -> Result<(), Failure> {
        loop {
            let chunk = read_chunk(items, self.chunk_len, instruction)?;
            if interrupt::requested() {
                return Err(Failure::interrupted());
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.chunk(chunk, engine)?;
        }
    }

    fn chunk(&mut self, chunk: Vec<InputItem>, engine: &mut dyn Engine) -> Result<(), Failure> {
        let good: Vec<&Content> = chunk.iter().filter_map(|it| it.content.as_ref().ok()).collect();
        let watch = Stopwatch::start();
        let results = if good.is_empty() { Vec::new() } else { engine.embed(&good)? };
        if !good.is_empty() {
            let made = results.iter().filter_map(|it| it.as_ref().ok());
            let token_count = made.map(|it| it.token_count as u64).sum();
            let (model, item_count, wall_ns) = (self.model, good.len() as u64, watch.elapsed_ns());
            self.recorder.record(Event::RequestDone { model, item_count, token_count, wall_ns });
            self.counters.increment(Plain::Requests);
            self.tell_cuts(&results);
        }
        if let Some(parity) = &mut self.parity {
            parity.measure(&good, &results)?;
        }
        let mut results = results.into_iter();
        self.spinner.advance(chunk.len());
        for item in chunk {
            let index = self.report.next_item();
            let content = match &item.content {
                Ok(it) => it,
                Err(fault) => {
                    self.report.fail(index, &item, fault.to_string());
                    continue;
                }
            };
            match results.next() {
                Some(Ok(made)) => self.row(index, &item, content, made, engine)?,
                Some(Err(err)) => self.report.fail(index, &item, crate::exit::chain(&err)),
                None => return Err(Failure::internal("an item has no result")),
            }
        }
        Ok(())
    }

    /// Tells of every input of a request that was cut to what a model takes.
    fn tell_cuts(&self, results: &[EmbeddingResult<Made>]) {
        for (item_index, made) in results.iter().enumerate() {
            let Some(cut) = made.as_ref().ok().and_then(|it| it.cut) else { continue };
            self.counters.increment(Plain::Truncations);
            self.recorder.record(Event::InputTruncated {
                model: self.model,
                item_index: item_index as u64,
                token_count: cut.token_count as u64,
                kept_token_count: cut.kept_token_count as u64,
            });
        }
    }

    fn row(
        &mut self,
        index: usize,
        item: &InputItem,
        content: &Content,
        made: Made,
        engine: &dyn Engine,
    ) -> Result<(), Failure> {
        let mut details = Map::new();
        details.insert("truncated".into(), (item.truncated || made.truncated).into());
        details.extend(made.details);
        let row = Row {
            item_index: index,
            id: item.id.clone().unwrap_or_else(|| item.place.to_string()),
            content_hash: content_hash(content),
            text: match content {
                Content::Text { text, .. } | Content::Code { text, .. } => Some(text.clone()),
                Content::Ids(_) | Content::Image { .. } => None,
            },
            cells: made.cells,
            details,
        };
        let rectangular =
            |it: &Reserved| matches!(it.format(), OutputFormat::Npy | OutputFormat::Safetensors);
        if row.has_gaps() && self.target.as_ref().is_some_and(rectangular) {
            self.report.fail(index, item, "models are missing, and the file has no gaps".into());
            return Ok(());
        }
        if let Some(target) = self.target.take() {
            self.file = Some(target.start(engine.columns())?);
        }
        if let Some(file) = &mut self.file {
            file.write(&row)?;
        }
        self.report.succeed(item.truncated || made.truncated, made.token_count);
        match self.shows {
            Shows::Nothing => Ok(()),
            Shows::Lines => answer::line(row_to_json(&row, engine.columns())),
            Shows::Tables => answer::line(table::of(&row, &made.table)),
        }
    }
}

/// xxh64 of what is embedded.
fn content_hash(content: &Content) -> u64 {
    let of = |bytes: &[u8]| {
        // Only the bytes count; the form is any that takes them.
        let format = calor_embed::input::ImageFormat::Png;
        ModelInput::Image { bytes: bytes.to_vec(), format }.content_hash()
    };
    match content {
        Content::Text { text, .. } | Content::Code { text, .. } => of(text.as_bytes()),
        Content::Image { bytes, .. } => of(bytes),
        Content::Ids(ids) => of(&ids.iter().flat_map(|it| it.to_le_bytes()).collect::<Vec<u8>>()),
    }
}

fn read_chunk(
    items: &mut Items,
    len: usize,
    instruction: Option<&str>,
) -> Result<Vec<InputItem>, Failure> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while chunk.len() < len && bytes < CHUNK_BYTES {
        let Some(item) = items.next() else { break };
        let mut item = item?;
        if let Ok(Content::Text { instruction: own @ None, .. }) = &mut item.content {
            *own = instruction.map(str::to_owned);
        }
        bytes += match &item.content {
            Ok(Content::Text { text, .. } | Content::Code { text, .. }) => text.len(),
            Ok(Content::Ids(ids)) => 4 * ids.len(),
            Ok(Content::Image { bytes, .. }) => bytes.len(),
            Err(_) => 0,
        };
        chunk.push(item);
    }
    Ok(chunk)
}

/// All items of a command line, one origin after another.
pub(crate) fn open_items(arguments: &InputArguments) -> Result<Items, Failure> {
    let format = arguments.format.map(|it| match it {
        FormatWord::Txt => InputFormat::Txt,
        FormatWord::Jsonl => InputFormat::Jsonl,
        FormatWord::Csv => InputFormat::Csv,
        FormatWord::Parquet => InputFormat::Parquet,
    });
    let limits = ReadLimits {
        text_bytes_max: arguments.max_bytes.get(),
        long_text: match arguments.on_too_long {
            TooLong::Truncate => LongText::Truncate,
            TooLong::Refuse => LongText::Refuse,
        },
        ..ReadLimits::STANDARD
    };
    let options = ReadOptions { format, column: arguments.column.clone(), limits };
    let mut origins = Vec::new();
    for part in arguments.texts.chunk_by(|a, b| is_text(a) && is_text(b)) {
        origins.push(match is_text(&part[0]) {
            true => Origin::Arguments(part.to_vec()),
            false => Origin::File(part[0].as_str().into()),
        });
    }
    let stdin = PathBuf::from("-");
    let named = |it: &PathBuf| if *it == stdin { Origin::Stdin } else { Origin::File(it.clone()) };
    origins.extend(arguments.input.iter().map(named));
    if origins.is_empty() {
        if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Failure::usage("there is nothing to embed")
                .hint("give texts, or `--input FILE`, or pipe texts in"));
        }
        origins.push(Origin::Stdin);
    }
    // Each is opened now, so that a missing one is known before anything is computed.
    let opened: Vec<Items> =
        origins.iter().map(|it| input::open(it, &options)).collect::<Result<_, _>>()?;
    Ok(Box::new(opened.into_iter().flatten()))
}

/// Whether a word is embedded itself, and not a file's name.
fn is_text(word: &str) -> bool {
    InputFormat::of_word(word).is_none()
}

/// Notes that every file carries.
pub(crate) fn standard_notes() -> Vec<Note> {
    vec![
        ("producer", format!("calor {}", crate::version::VERSION)),
        ("producer_revision", crate::version::REVISION.to_owned()),
    ]
}
