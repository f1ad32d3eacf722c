//! What became of the items, what ran, and what of it is untrained.

use calor_telemetry::Stopwatch;
use serde_json::{Map, Value as Json, json};

use super::standard_notes;
use crate::{
    answer,
    arguments::EmbedArguments,
    exit::{Exit, Failure},
    input::InputItem,
    output::Note,
};

/// Failures that are printed one by one; the report has all.
const SHOWN: usize = 20;

/// The account of a run.
pub(super) struct Report {
    watch: Stopwatch,
    item_count: usize,
    done_count: usize,
    truncated_count: usize,
    token_count: usize,
    failed: Vec<Json>,
    about: Map<String, Json>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            watch: Stopwatch::start(),
            item_count: 0,
            done_count: 0,
            truncated_count: 0,
            token_count: 0,
            failed: Vec::new(),
            about: Map::new(),
        }
    }

    /// The next item's place among all.
    pub(super) fn next_item(&mut self) -> usize {
        self.item_count += 1;
        self.item_count - 1
    }

    pub(super) fn item_count(&self) -> usize {
        self.item_count
    }

    pub(super) fn has_failures(&self) -> bool {
        !self.failed.is_empty()
    }

    pub(super) fn succeed(&mut self, truncated: bool, token_count: usize) {
        self.done_count += 1;
        self.truncated_count += usize::from(truncated);
        self.token_count += token_count;
    }

    /// An item failed; it is said at once.
    pub(super) fn fail(&mut self, index: usize, item: &InputItem, why: String) {
        match self.failed.len() {
            it if it < SHOWN => answer::remark(format!("calor: {}: {why}", item.place)),
            SHOWN => answer::remark("calor: more items failed; `--report FILE` lists all"),
            _ => {}
        }
        let place = item.place.to_string();
        self.failed.push(json!({
            "item_index": index, "id": item.id, "place": place, "error": why,
        }));
    }

    /// What ran, and how far its vectors are from those in f32, if that was measured.
    pub(super) fn describe(&mut self, about: Map<String, Json>, parity: Option<Json>) {
        self.about = about;
        self.about.extend(parity.map(|it| ("precision_check".into(), it)));
    }

    /// What goes into a file's metadata.
    pub(super) fn notes(&self) -> Vec<Note> {
        let text = |name: &str| match self.about.get(name) {
            Some(Json::String(it)) => Some(it.clone()),
            Some(it) => Some(it.to_string()),
            None => None,
        };
        let mut out = standard_notes();
        for name in
            ["model", "profile", "models", "checkpoints", "pooling", "precision", "untrained"]
        {
            out.extend(text(name).map(|it| (name, it)));
        }
        if self.has_failures() {
            let failed: Vec<&Json> = self.failed.iter().map(|it| &it["item_index"]).collect();
            out.push(("failed_item_indexes", json!(failed).to_string()));
        }
        out
    }

    fn to_json(&self) -> Json {
        let mut out = self.about.clone();
        out.insert("version".into(), crate::version::VERSION.into());
        out.insert("revision".into(), crate::version::REVISION.into());
        out.insert("item_count".into(), self.item_count.into());
        out.insert("done_count".into(), self.done_count.into());
        out.insert("failed_count".into(), self.failed.len().into());
        out.insert("truncated_count".into(), self.truncated_count.into());
        if self.token_count > 0 {
            out.insert("token_count".into(), self.token_count.into());
        }
        out.insert("wall_ms".into(), (self.watch.elapsed_ns() / 1_000_000).into());
        out.insert("failed".into(), self.failed.clone().into());
        Json::Object(out)
    }

    /// Says what became of the run, where the user wants it.
    ///
    /// # Errors
    /// When the report's file cannot be written.
    pub(super) fn tell(&self, arguments: &EmbedArguments, quiet: bool) -> Result<(), Failure> {
        if let Some(path) = &arguments.report {
            std::fs::write(path, format!("{:#}\n", self.to_json())).map_err(|err| {
                let what = format!("cannot write {}", path.display());
                Failure::new(Exit::Environment, what).why(err)
            })?;
        } else if arguments.json && !quiet {
            answer::remark(self.to_json());
        }
        if !arguments.json && !quiet {
            self.summarise(arguments);
        }
        Ok(())
    }

    fn summarise(&self, arguments: &EmbedArguments) {
        let seconds = self.watch.elapsed_ns() as f64 / 1e9;
        let mut line = format!("{} of {} items", self.done_count, self.item_count);
        if self.truncated_count > 0 {
            line.push_str(&format!(", {} cut", self.truncated_count));
        }
        if let Some(path) = &arguments.output {
            line.push_str(&format!(" -> {}", path.display()));
        }
        let word = |name: &str| self.about.get(name).and_then(Json::as_str).unwrap_or("?");
        let how = format!("{} on {}", word("precision"), word("device"));
        answer::remark(format!("{line}  ({seconds:.2} s, {how})"));
        if let Some(weights) = self.about.get("weights") {
            let bytes = |name: &str| answer::bytes(weights[name].as_u64().unwrap_or(0));
            let seconds = weights["wall_ns"].as_u64().unwrap_or(0) as f64 / 1e9;
            let rate = weights["gigabytes_per_s"].as_f64().unwrap_or(0.0);
            let road = weights["road"].as_str().unwrap_or_default();
            answer::remark(format!(
                "weights: {} in {seconds:.2} s ({rate:.1} GB/s, {road}); {} checked, {} proven",
                bytes("read_bytes"),
                bytes("checked_bytes"),
                bytes("proven_bytes"),
            ));
        }
        if let Some(Json::Object(columns)) =
            self.about.get("precision_check").map(|it| &it["columns"])
        {
            for (name, it) in columns {
                let figure = |name: &str| it[name].as_f64().unwrap_or_default();
                let (least, mean) = (figure("cosine_min"), figure("cosine_mean"));
                answer::remark(format!("{name}: cosine to f32 {mean:.6}, least {least:.6}"));
            }
        }
        let untrained = self.about.get("untrained").and_then(Json::as_array);
        let untrained: Vec<&str> =
            untrained.into_iter().flatten().filter_map(Json::as_str).collect();
        if !untrained.is_empty() {
            answer::remark(format!("untrained: {}", untrained.join("\n           ")));
        }
    }
}
