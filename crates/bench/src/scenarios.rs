//! The registry: every scenario, in the order in which they are listed.

mod first_vector;
mod memory;
mod minilm;
mod op;
mod pipeline;
mod plan;

use crate::scenario::Scenario;

pub use op::op_names;
pub(crate) use pipeline::inputs as pipeline_texts;

/// Every scenario.
// tidy: table
pub static SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "embed.minilm.64x128",
        about: "64 texts of 128 tokens each, ids given: throughput",
        measure: |context, _| minilm::measure(&minilm::MANY, context),
    },
    Scenario {
        name: "embed.minilm.1x32",
        about: "one text of 32 tokens, ids given: latency",
        measure: |context, _| minilm::measure(&minilm::ONE, context),
    },
    Scenario {
        name: "pipeline.mini.texts",
        about: "short texts through twelve models on one trunk and their fusion",
        measure: |context, _| pipeline::measure(context),
    },
    Scenario {
        name: "start.first_vector",
        about: "from starting a process to its first vector",
        measure: |context, _| first_vector::measure(context),
    },
    Scenario {
        name: "memory.peak.minilm",
        about: "most resident memory against weights and the values alive at once",
        measure: |context, _| memory::measure(context),
    },
    Scenario {
        name: "plan.bert_large.512",
        about: "planning BERT-large for 512 tokens on the device's claims",
        measure: |context, _| plan::measure(context),
    },
    Scenario {
        name: "op.*",
        about: "one run of every case of every composite",
        measure: op::measure,
    },
];

#[test]
fn names_are_unique_and_found() {
    use crate::scenario::scenario_by_name;
    for (index, one) in SCENARIOS.iter().enumerate() {
        assert!(SCENARIOS[..index].iter().all(|it| it.name != one.name), "{}", one.name);
        assert_eq!(scenario_by_name(one.name).unwrap().0.name, one.name);
    }
    let (op, member) = scenario_by_name("op.softmax.rows").unwrap();
    assert_eq!((op.name, member), ("op.*", Some("softmax.rows")));
    assert_eq!(scenario_by_name("op").unwrap().1, None);
    assert!(scenario_by_name("operation").is_none());
    assert!(scenario_by_name("embed.minilm").is_none());
}
