//! Typed and checked access to the fields of a configuration file.
//!
//! Knows how to refuse a value, not what it means.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Activation, HIDDEN_LEN_MAX};
use crate::{FieldProblem, WeightsError};

/// One JSON object, its path in the file, and typed access to its fields.
#[derive(Clone)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) prefix: String,
    pub(super) map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn err(&self, name: &str, problem: FieldProblem) -> WeightsError {
        let field = format!("{}{name}", self.prefix);
        WeightsError::Field { path: self.path.into(), field, problem }
    }

    /// The value; an explicit null counts as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|it| !it.is_null())
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The object at `name`, overlaid with the older `{name}_dict`; empty when absent.
    pub(super) fn nested(&self, name: &str) -> Result<Fields<'a>, WeightsError> {
        let mut map = Map::new();
        for name in [name.to_owned(), format!("{name}_dict")] {
            match self.get(&name) {
                None => {}
                Some(Value::Object(part)) => map.extend(part.clone()),
                Some(_) => {
                    return Err(self.err(&name, FieldProblem::Type { want: "an object" }));
                }
            }
        }
        Ok(Fields { path: self.path, prefix: format!("{}{name}.", self.prefix), map })
    }

    pub(super) fn count(
        &self,
        name: &str,
        min: usize,
        max: usize,
        default: Option<usize>,
    ) -> Result<usize, WeightsError> {
        match (self.get(name), default) {
            (Some(value), _) => self.check_count(name, value, min, max),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(self.err(name, FieldProblem::Missing)),
        }
    }

    pub(super) fn check_count(
        &self,
        name: &str,
        value: &Value,
        min: usize,
        max: usize,
    ) -> Result<usize, WeightsError> {
        let found = value
            .as_f64()
            .ok_or_else(|| self.err(name, FieldProblem::Type { want: "a whole number" }))?;
        match value.as_u64().and_then(|it| usize::try_from(it).ok()) {
            Some(count) if (min..=max).contains(&count) => Ok(count),
            Some(_) => Err(self.out_of_range(name, found, min as f64, max as f64)),
            None if found.fract() != 0.0 => {
                Err(self.err(name, FieldProblem::Type { want: "a whole number" }))
            }
            None => Err(self.out_of_range(name, found, min as f64, max as f64)),
        }
    }

    pub(super) fn out_of_range(&self, name: &str, found: f64, min: f64, max: f64) -> WeightsError {
        self.err(name, FieldProblem::Range { found, min, max })
    }

    /// A count that divides `whole`.
    pub(super) fn divisor(
        &self,
        name: &str,
        whole: usize,
        default: Option<usize>,
    ) -> Result<usize, WeightsError> {
        let found = self.count(name, 1, HIDDEN_LEN_MAX, default)?;
        match whole.is_multiple_of(found) {
            true => Ok(found),
            false => Err(self.err(name, FieldProblem::NotDivisor { found, whole })),
        }
    }

    /// Buckets of a table of relative biases: an even number, two directions of two halves.
    pub(super) fn buckets(&self, name: &str) -> Result<usize, WeightsError> {
        let found = self.count(name, 4, 4096, Some(32))?;
        match found.is_multiple_of(4) {
            true => Ok(found),
            false => Err(self.err(name, FieldProblem::NotDivisor { found: 4, whole: found })),
        }
    }

    /// Half a window of `width` rows.
    pub(super) fn reach(&self, name: &str, width: usize) -> Result<usize, WeightsError> {
        match width.is_multiple_of(2) {
            true => Ok(width / 2),
            false => Err(self.err(name, FieldProblem::Odd { found: width })),
        }
    }

    pub(super) fn number(
        &self,
        name: &str,
        min: f64,
        max: f64,
        default: f64,
    ) -> Result<f64, WeightsError> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let found = value
            .as_f64()
            .ok_or_else(|| self.err(name, FieldProblem::Type { want: "a number" }))?;
        match min <= found && found <= max {
            true => Ok(found),
            false => Err(self.out_of_range(name, found, min, max)),
        }
    }

    pub(super) fn eps(&self, name: &str, default: f64) -> Result<f64, WeightsError> {
        self.number(name, 1e-30, 1.0, default)
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool, WeightsError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.err(name, FieldProblem::Type { want: "true or false" })),
        }
    }

    pub(super) fn text(&self, name: &str, default: Option<&str>) -> Result<String, WeightsError> {
        match (self.get(name), default) {
            (Some(Value::String(text)), _) => Ok(text.clone()),
            (Some(_), _) => Err(self.err(name, FieldProblem::Type { want: "a string" })),
            (None, Some(default)) => Ok(default.into()),
            (None, None) => Err(self.err(name, FieldProblem::Missing)),
        }
    }

    pub(super) fn expect_only(&self, name: &str, allowed: &[&str]) -> Result<(), WeightsError> {
        let found = self.text(name, Some(allowed[0]))?;
        match allowed.contains(&found.as_str()) {
            true => Ok(()),
            false => Err(self.err(name, FieldProblem::Unsupported { found })),
        }
    }

    pub(super) fn expect_false(&self, name: &str) -> Result<(), WeightsError> {
        match self.flag(name, false)? {
            false => Ok(()),
            true => Err(self.err(name, FieldProblem::Unsupported { found: "true".into() })),
        }
    }

    /// A token id below `vocab_count`; the first where the file lists several.
    pub(super) fn id(&self, name: &str, vocab_count: usize) -> Result<Option<u32>, WeightsError> {
        let value = match self.get(name) {
            Some(Value::Array(list)) => list.first(),
            other => other,
        };
        match value {
            Some(value) if vocab_count != 0 => {
                Ok(Some(self.check_count(name, value, 0, vocab_count - 1)? as u32))
            }
            _ => Ok(None),
        }
    }

    pub(super) fn activation(&self, name: &str, default: &str) -> Result<Activation, WeightsError> {
        self.activation_named(name, &self.text(name, Some(default))?)
    }

    pub(super) fn activation_named(
        &self,
        name: &str,
        value: &str,
    ) -> Result<Activation, WeightsError> {
        match value {
            "gelu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "quick_gelu" => Ok(Activation::QuickGelu),
            "relu" => Ok(Activation::Relu),
            "silu" | "swish" => Ok(Activation::Silu),
            _ => Err(self.err(name, FieldProblem::Unsupported { found: value.into() })),
        }
    }

    /// `layer_types`: for each layer whether it has a window.
    pub(super) fn layer_types(
        &self,
        layer_count: usize,
    ) -> Result<Option<Vec<bool>>, WeightsError> {
        const NAME: &str = "layer_types";
        let list = match self.get(NAME) {
            None => return Ok(None),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(self.err(NAME, FieldProblem::Type { want: "a list" })),
        };
        if list.len() != layer_count {
            let (want_count, found_count) = (layer_count, list.len());
            return Err(self.err(NAME, FieldProblem::Count { want_count, found_count }));
        }
        let local = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => Err(self.err(NAME, FieldProblem::Unsupported { found: value.to_string() })),
        };
        list.iter().map(local).collect::<Result<_, _>>().map(Some)
    }

    /// The rotary base: in `rope_parameters`, there under `kind` if that is not empty, else in
    /// the older field `old`. Any scaling is refused.
    pub(super) fn theta(&self, kind: &str, old: &str, default: f64) -> Result<f64, WeightsError> {
        let mut theta = self.number(old, 1.0, 1e12, default)?;
        for name in ["rope_scaling", "rope_parameters"] {
            let mut part = self.nested(name)?;
            if !kind.is_empty() && part.has(kind) {
                part = part.nested(kind)?;
            }
            part.expect_only("rope_type", &["default"])?;
            part.expect_only("type", &["default"])?;
            theta = part.number("rope_theta", 1.0, 1e12, theta)?;
        }
        Ok(theta)
    }
}
