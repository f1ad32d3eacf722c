//! `calor search`: the texts of a corpus that are nearest to a query, by exact comparison.

mod corpus;

use calor_embed::{
    ModelId, ModelInput, PipelineOutput, SparseVector, TokenMatrix,
    search::{DenseIndex, Hit, nearest_max_sim, nearest_sparse},
};
use serde_json::json;

use crate::{
    answer,
    arguments::{RunArguments, SearchArguments, SearchBy, TooLong, VectorWord},
    embed::{PipelineEngine, Wanted},
    environment::Environment,
    exit::{Exit, Failure},
    recording::Recording,
};
use corpus::{Corpus, Key, Keys};

/// Searches.
///
/// # Errors
/// When the corpus cannot be read or nothing in it can be compared.
pub(crate) fn run(
    arguments: &SearchArguments,
    environment: &Environment,
    recording: &Recording,
    quiet: bool,
) -> Result<Exit, Failure> {
    let run = only_what_is_compared(arguments);
    // What the corpus is decides nothing about the models; a missing file is known first.
    let source = corpus::Source::open(arguments)?;
    let wanted =
        Wanted { vectors: vec![vector_word(arguments.by)], on_too_long: TooLong::Truncate };
    let mut engine = PipelineEngine::open(&[run], wanted, environment, recording, quiet)?;
    let corpus = source.read(arguments, &mut engine, quiet)?;
    let query = query_key(arguments, &mut engine)?;
    let hits = nearest(&corpus.keys, &query, arguments.top)?;
    for (rank, hit) in hits.iter().enumerate() {
        show(arguments, &corpus, rank, hit)?;
    }
    if !quiet && arguments.by == SearchBy::Fused && !arguments.json {
        answer::remark("the fusion is untrained; `--by e1` … `e12` compare by one model");
    }
    Ok(if corpus.failed_count > 0 { Exit::SomeItems } else { Exit::Done })
}

fn only_what_is_compared(arguments: &SearchArguments) -> RunArguments {
    let mut run = arguments.run.clone();
    if let SearchBy::Model(model) = arguments.by {
        run.models = vec![model];
        run.allow_partial = false;
    }
    run
}

fn vector_word(by: SearchBy) -> VectorWord {
    match by {
        SearchBy::Fused => VectorWord::Fused,
        SearchBy::Model(_) => VectorWord::Slots,
    }
}

fn query_key(arguments: &SearchArguments, engine: &mut PipelineEngine) -> Result<Key, Failure> {
    let instruction = Some("role:query".to_owned());
    let input = ModelInput::text_with_instruction(&arguments.query, instruction)
        .map_err(|err| Failure::usage("the query cannot be embedded").why(err))?;
    let output = engine.outputs(std::slice::from_ref(&input))?.pop();
    let output = output.ok_or_else(|| Failure::internal("the query has no result"))??;
    key_of(&output, arguments.by).ok_or_else(|| {
        Failure::usage(format!("the query has no vector of {}", arguments.by.name()))
    })
}

/// What an item is compared by, if it has it.
fn key_of(output: &PipelineOutput, by: SearchBy) -> Option<Key> {
    match by {
        SearchBy::Fused => output.fused.as_ref().map(|it| Key::Dense(it.vector.clone())),
        SearchBy::Model(ModelId::Sparse) => output.sparse.clone().map(Key::Sparse),
        SearchBy::Model(ModelId::LateInteraction) => output.tokens.clone().map(Key::Tokens),
        SearchBy::Model(model) => {
            output.embeddings.get(model).map(|it| Key::Dense(it.vector.clone()))
        }
    }
}

fn nearest(keys: &Keys, query: &Key, top: usize) -> Result<Vec<Hit>, Failure> {
    let sparse = |rows: &Vec<SparseVector>, query: &SparseVector| nearest_sparse(query, rows, top);
    let tokens = |rows: &Vec<TokenMatrix>, query: &TokenMatrix| nearest_max_sim(query, rows, top);
    match (keys, query) {
        (Keys::Dense { rows, len }, Key::Dense(query)) => {
            Ok(DenseIndex::new(rows.clone(), *len)?.nearest(query, top)?)
        }
        (Keys::Sparse(rows), Key::Sparse(query)) => Ok(sparse(rows, query)),
        (Keys::Tokens(rows), Key::Tokens(query)) => Ok(tokens(rows, query)?),
        (Keys::Dense { .. } | Keys::Sparse(_) | Keys::Tokens(_), _) => {
            Err(Failure::internal("the query is not of the corpus's kind"))
        }
    }
}

fn show(
    arguments: &SearchArguments,
    corpus: &Corpus,
    rank: usize,
    hit: &Hit,
) -> Result<(), Failure> {
    let entry = &corpus.entries[hit.row_index];
    if arguments.json {
        return answer::line(json!({
            "rank": rank + 1,
            "score": hit.score,
            "id": entry.id,
            "text": entry.text,
            "by": arguments.by.name(),
        }));
    }
    let text: String = entry.text.as_deref().unwrap_or("").chars().take(100).collect();
    let plain: String = text.chars().map(|it| if it.is_control() { ' ' } else { it }).collect();
    answer::line(format!("{:>3}  {:>8.4}  {}  {plain}", rank + 1, hit.score, entry.id))
}
