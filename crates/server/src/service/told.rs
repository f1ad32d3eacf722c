//! What is told of a request when it ends: one event, whatever became of it.

use calor_embed::tokenizer::TokenCut;
use calor_embed::{EmbeddingError, Fault};
use calor_telemetry::counter::Plain;
use calor_telemetry::{Event, Label, Outcome, Refusal as Reason, Stopwatch};

use super::{Answer, Answered, Service, Summary};
use crate::options::Target;
use crate::refusal::Refusal;

/// A request under way. It is told of when this goes, also where nobody waits for the end.
pub(super) struct Told<'a> {
    service: &'a Service,
    watch: Stopwatch,
    model: Label,
    pub(super) request_index: u64,
    item_count: usize,
    outcome: Outcome,
    /// What was cut off its inputs before they were queued.
    pub(super) cuts: Vec<Option<TokenCut>>,
    /// What is known of it so far.
    pub(super) summary: Summary,
}

impl<'a> Told<'a> {
    pub(super) fn begin(service: &'a Service, target: Target, item_count: usize) -> Self {
        Self {
            service,
            watch: Stopwatch::start(),
            model: Label::fixed(target.name()),
            request_index: service.next_request(),
            item_count,
            outcome: Outcome::Gone,
            cuts: Vec::new(),
            summary: Summary::default(),
        }
    }

    /// It was answered, or why it was not.
    pub(super) fn end(mut self, result: &Result<Answered, Refusal>) {
        match result {
            Ok(answered) => {
                self.summary = answered.summary();
                let good = answered.answers.iter().flatten().count();
                self.outcome = match good {
                    0 => Outcome::Failed,
                    _ if good < answered.answers.len() => Outcome::Partly,
                    _ => Outcome::Answered,
                };
                self.service.counters.increment(Plain::Requests);
                for (index, answer) in answered.answers.iter().enumerate() {
                    match answer {
                        Ok(answer) => self.answered(index, answer),
                        Err(err) => self.refused(index, err),
                    }
                }
            }
            Err(refusal) => {
                self.outcome = outcome(refusal);
                match refusal {
                    Refusal::Input { index, source } => self.refused(*index, source),
                    Refusal::Whole(source) if self.item_count == 1 => self.refused(0, source),
                    _ => {}
                }
            }
        }
    }

    /// Tells of an input that was cut, by whom it was cut most. A result that was known already
    /// says nothing of its input.
    fn answered(&self, item_index: usize, answer: &Answer) {
        let by_models = answer.output.cut.filter(|_| 0 < answer.batch_count);
        let in_front = self.cuts.get(item_index).copied().flatten();
        let Some(cut) = TokenCut::deeper(in_front, by_models) else { return };
        self.service.counters.increment(Plain::Truncations);
        self.service.recorder.record(Event::InputTruncated {
            model: self.model,
            item_index: item_index as u64,
            token_count: cut.token_count as u64,
            kept_token_count: cut.kept_token_count as u64,
        });
    }

    fn refused(&self, item_index: usize, source: &EmbeddingError) {
        if let Some(reason) = reason(source) {
            let (model, item_index) = (self.model, item_index as u64);
            self.service.counters.increment(Plain::Refusals);
            self.service.recorder.record(Event::InputRefused { model, reason, item_index });
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        let summary = &self.summary;
        self.service.recorder.record(Event::RequestServed {
            model: self.model,
            outcome: self.outcome,
            request_index: self.request_index,
            item_count: self.item_count as u64,
            hit_count: summary.hit_count as u64,
            token_count: summary.token_count as u64,
            tokenization_ns: summary.tokenization_ns,
            queue_ns: summary.queue_ns,
            inference_ns: summary.inference_ns,
            wall_ns: self.watch.elapsed_ns(),
        });
    }
}

fn outcome(refusal: &Refusal) -> Outcome {
    match refusal.status().as_u16() {
        429 | 503 => Outcome::Overloaded,
        504 => Outcome::TimedOut,
        499 => Outcome::Gone,
        _ => match refusal {
            Refusal::Input { source, .. } | Refusal::Whole(source)
                if source.fault() != Fault::UserInput =>
            {
                Outcome::Failed
            }
            _ => Outcome::Refused,
        },
    }
}

/// Why an input was not taken; nothing where the fault is not the input's.
fn reason(source: &EmbeddingError) -> Option<Reason> {
    match source {
        EmbeddingError::EmptyInput { .. } => Some(Reason::Empty),
        EmbeddingError::InputTooLong { .. } => Some(Reason::TooLong),
        EmbeddingError::UnsupportedModality { .. } => Some(Reason::WrongKind),
        EmbeddingError::Overloaded { .. } => Some(Reason::Overload),
        EmbeddingError::Timeout { .. } => Some(Reason::Deadline),
        EmbeddingError::Cancelled => None,
        it => (it.fault() == Fault::UserInput).then_some(Reason::Malformed),
    }
}
