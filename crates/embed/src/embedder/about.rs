//! What an open checkpoint is.

use super::{CheckpointEmbedder, EmbedderOptions};
use crate::encoder::Pooling;
use crate::programs::Programs;
use crate::tower::TextTower;

impl CheckpointEmbedder {
    /// The device's programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// How it was opened.
    pub fn options(&self) -> &EmbedderOptions {
        &self.options
    }

    /// The text tower, if the checkpoint has one.
    pub fn text_tower(&self) -> Option<&TextTower> {
        self.text.as_ref()
    }

    /// Ids that the text tower knows: those below.
    pub fn vocab_count(&self) -> usize {
        self.vocab_count
    }

    /// Elements of an image's pixels, if the checkpoint has a vision tower.
    pub fn image_element_count(&self) -> Option<usize> {
        let config = self.image.as_ref()?.config();
        Some(config.channel_count * config.image_len * config.image_len)
    }

    /// How rows become a vector.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }
}
