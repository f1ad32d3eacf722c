//! All twelve models and their fusion with everything on the device: what was packed goes in, and
//! one row for each item comes out.
//!
//! A small group is one launch: a program whose branches are the towers, with the fusion behind
//! them. A large group is the towers' own programs one after another on one arena, then the fusion;
//! nothing is waited for in between. Both leave slots in the same channels.

use std::collections::BTreeMap;

use calor_runtime::{Input, ProgramId, Run};
use calor_telemetry::clock::Stopwatch;

use super::PipelineCore;
use super::batch::{BehindDevice, Half, Item};
use crate::embedding::{SparseVector, TokenMatrix};
use crate::error::{EmbeddingError, EmbeddingResult};
use crate::fuser::{BATCH_SIZES, SlotFusion};
use crate::model_id::ModelId;
use crate::packing::PackItem;
use crate::programs::Programs;
use crate::slots::NeuralModel;
use crate::tower::TextSlots;

/// Room of a program that holds all models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Tokens of each tower.
    pub(super) token_count: usize,
    pub(super) item_count: usize,
}

const fn room(token_count: usize) -> Room {
    Room { token_count, item_count: 4 }
}

/// Programs that hold all models, rising. With more tokens they are slower than one tower after
/// another: two branches of 4,608 tokens took 17.1 ms where 16.4 are enough in turn.
/// There is none of 64: products of as many rows took 2.2 ms of all models where those of 128 took
/// 1.7.
pub(super) const ROOMS: [Room; 5] = [room(32), room(128), room(256), room(512), room(1024)];

/// What a group's run took, step by step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupTimes {
    /// Packing, copying in and launching.
    pub launch_ns: u64,
    /// Waiting for the device behind that.
    pub wait_ns: u64,
    /// From the beginning until the numbers are on the host.
    pub device_ns: u64,
    /// Making results out of them.
    pub output_ns: u64,
}

impl GroupTimes {
    /// From the launch of the programs to their end.
    pub fn program_ns(&self) -> u64 {
        self.launch_ns + self.wait_ns
    }
}

/// How the whole pipeline runs.
#[derive(Debug)]
pub(super) struct Forms {
    /// Programs of all models, by their room for tokens, rising.
    pub(super) together: Vec<Together>,
    /// The fusion alone, by its room for items, rising.
    pub(super) fusions: Vec<Fusion>,
}

/// All models in one program.
pub(super) struct Together {
    pub(super) room: Room,
    pub(super) id: ProgramId,
    /// Inputs and outputs of each tower's part.
    pub(super) towers: Vec<TextSlots>,
    pub(super) fusion: SlotFusion,
}

impl std::fmt::Debug for Together {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Together").field("room", &self.room).finish_non_exhaustive()
    }
}

/// The fusion of slots in channels.
#[derive(Debug)]
pub(super) struct Fusion {
    pub(super) item_count: usize,
    pub(super) id: ProgramId,
    pub(super) slots: SlotFusion,
}

/// Where the outputs of a tower lie after a run.
#[derive(Clone, Copy)]
struct Left<'a> {
    id: ProgramId,
    part: usize,
    slots: &'a TextSlots,
}

impl PipelineCore {
    /// Runs items whose tokens are known through all models, in groups that fit every tower.
    pub(super) fn run_together(
        &mut self,
        items: Vec<(usize, Item)>,
        halves: &mut [Option<Half>],
    ) -> EmbeddingResult<()> {
        let mut group: Vec<(usize, Item)> = Vec::new();
        let mut tokens = vec![0; self.neural.len()];
        for (place, item) in items {
            let more: Vec<usize> =
                tokens.iter().zip(&item.tokens).map(|(sum, it)| sum + it.ids.len()).collect();
            if !group.is_empty() && !self.fits(&more, group.len() + 1) {
                self.run_group(std::mem::take(&mut group), halves)?;
                tokens.fill(0);
            }
            for (sum, it) in tokens.iter_mut().zip(&item.tokens) {
                *sum += it.ids.len();
            }
            group.push((place, item));
        }
        if group.is_empty() { Ok(()) } else { self.run_group(group, halves) }
    }

    /// Whether a group of so many tokens for each tower has a program everywhere.
    fn fits(&self, token_counts: &[usize], item_count: usize) -> bool {
        let has_bucket = |(model, tokens): (&NeuralModel, &usize)| {
            model.tower().bucket(*tokens, item_count).is_some()
        };
        item_count <= BATCH_SIZES[BATCH_SIZES.len() - 1]
            && self.neural.iter().zip(token_counts).all(has_bucket)
    }

    fn run_group(
        &mut self,
        group: Vec<(usize, Item)>,
        halves: &mut [Option<Half>],
    ) -> EmbeddingResult<()> {
        let watch = Stopwatch::start();
        let lost = || EmbeddingError::InternalError { place: "forms of a group", source: None };
        let forms = self.forms.take().ok_or_else(lost)?;
        let done = self.run_form(&forms, &group);
        self.forms = Some(forms);
        let rows = done?;
        let device_ns = watch.elapsed_ns();
        self.times = GroupTimes { device_ns, ..self.times };
        let latency_us = device_ns / 1000;
        for ((place, item), row) in group.into_iter().zip(rows) {
            halves[place] = Some(Half::Row(Box::new(BehindDevice { item, row, latency_us })));
        }
        Ok(())
    }

    /// Runs a group in the form that fits it.
    fn run_form(
        &mut self,
        forms: &Forms,
        group: &[(usize, Item)],
    ) -> EmbeddingResult<Vec<EmbeddingResult<Row>>> {
        let tokens = |tower: usize| group.iter().map(|it| it.1.tokens[tower].ids.len()).sum();
        let most: usize = (0..self.neural.len()).map(tokens).max().unwrap_or(0);
        let hosted = Hosted::of(group);
        let fits = |it: &&Together| {
            let Room { token_count, item_count } = it.room;
            most <= token_count && group.len() <= item_count
        };
        match forms.together.iter().find(fits) {
            Some(form) => self.run_at_once(form, group, hosted),
            None => self.run_in_turn(forms, group, hosted),
        }
    }

    /// One launch for everything.
    fn run_at_once(
        &mut self,
        form: &Together,
        group: &[(usize, Item)],
        hosted: Hosted,
    ) -> EmbeddingResult<Vec<EmbeddingResult<Row>>> {
        let Self { programs, neural, .. } = self;
        let mut live: Vec<[u32; 2]> = Vec::with_capacity(form.towers.len() + 1);
        for (index, (model, slots)) in neural.iter_mut().zip(&form.towers).enumerate() {
            live.push(model.tower_mut().pack(&items_of(group, index), slots.bucket())?);
        }
        live.push([group.len() as u32; 2]);
        let mut inputs = Vec::with_capacity(16 * form.towers.len());
        for (part, (model, slots)) in neural.iter().zip(&form.towers).enumerate() {
            let (of_tower, count) = model.tower().inputs(slots, part);
            inputs.extend_from_slice(&of_tower[..count]);
        }
        inputs.extend(hosted.inputs(&form.fusion, form.towers.len()));
        let live: Vec<&[u32]> = live.iter().map(<[u32; 2]>::as_slice).collect();
        let watch = Stopwatch::start();
        let run = programs.start(form.id, &inputs, &live)?;
        let launch_ns = watch.elapsed_ns();
        programs.finish(run)?;
        self.times =
            GroupTimes { launch_ns, wait_ns: watch.elapsed_ns() - launch_ns, ..self.times };
        let left: Vec<Left<'_>> = (form.towers.iter().enumerate())
            .map(|(part, slots)| Left { id: form.id, part, slots })
            .collect();
        let result = (form.id, form.towers.len(), form.fusion.result);
        let numbers = self.numbers(group.len(), result)?;
        let Self { programs, neural, options, .. } = self;
        match options.own_forms {
            true => own_forms(programs, neural, group, &left, hosted, numbers),
            false => Ok(numbers.into_iter().map(|it| Ok(Row::of(it))).collect()),
        }
    }

    /// One tower after another, then the fusion.
    fn run_in_turn(
        &mut self,
        forms: &Forms,
        group: &[(usize, Item)],
        hosted: Hosted,
    ) -> EmbeddingResult<Vec<EmbeddingResult<Row>>> {
        let lost = || EmbeddingError::InternalError { place: "bucket of a group", source: None };
        let Self { programs, neural, .. } = self;
        let watch = Stopwatch::start();
        let mut runs: Vec<Run> = Vec::with_capacity(neural.len() + 1);
        let mut buckets = Vec::with_capacity(neural.len());
        for (index, model) in neural.iter_mut().enumerate() {
            let items = items_of(group, index);
            let tokens = items.iter().map(|it| it.ids.len()).sum();
            let tower = model.tower_mut();
            let bucket = tower.bucket(tokens, items.len()).ok_or_else(lost)?;
            tower.ensure(programs, bucket)?;
            runs.push(tower.start(programs, bucket, &items)?);
            buckets.push(bucket);
        }
        let fusion =
            forms.fusions.iter().find(|it| group.len() <= it.item_count).ok_or_else(lost)?;
        let inputs = hosted.inputs(&fusion.slots, 0);
        runs.push(programs.start(fusion.id, &inputs, &[&[group.len() as u32]])?);
        let launch_ns = watch.elapsed_ns();
        for run in runs {
            programs.finish(run)?;
        }
        self.times =
            GroupTimes { launch_ns, wait_ns: watch.elapsed_ns() - launch_ns, ..self.times };
        let numbers = self.numbers(group.len(), (fusion.id, 0, fusion.slots.result))?;
        let Self { programs, neural, options, .. } = self;
        if !options.own_forms {
            return Ok(numbers.into_iter().map(|it| Ok(Row::of(it))).collect());
        }
        let mut left = Vec::with_capacity(neural.len());
        for (model, bucket) in neural.iter().zip(buckets) {
            let (id, slots) = model.tower().program(bucket).ok_or_else(lost)?;
            left.push(Left { id, part: 0, slots });
        }
        own_forms(programs, neural, group, &left, hosted, numbers)
    }

    /// The fusion's row of each item.
    fn numbers(
        &mut self,
        item_count: usize,
        (id, part, slot): (ProgramId, usize, usize),
    ) -> EmbeddingResult<Vec<Vec<f32>>> {
        let lost = || EmbeddingError::InternalError { place: "fusion of a group", source: None };
        let row_len = self.fusion.as_ref().map(|it| it.rows().row_len()).ok_or_else(lost)?;
        let mut all = vec![0.0_f32; item_count * row_len];
        self.programs.read(id, part, slot, &mut all)?;
        Ok(all.chunks_exact(row_len).map(<[f32]>::to_vec).collect())
    }
}

/// The items of a group as one tower's packer takes them.
fn items_of(group: &[(usize, Item)], tower: usize) -> Vec<PackItem<'_>> {
    group.iter().map(|it| it.1.tokens[tower].item()).collect()
}

/// The fusion's rows with E6 and E12 in their own forms.
fn own_forms(
    programs: &mut Programs,
    neural: &[NeuralModel],
    group: &[(usize, Item)],
    left: &[Left<'_>],
    hosted: Hosted,
    numbers: Vec<Vec<f32>>,
) -> EmbeddingResult<Vec<EmbeddingResult<Row>>> {
    let mut rows: Vec<EmbeddingResult<Row>> =
        numbers.into_iter().map(|it| Ok(Row::of(it))).collect();
    for (row, sparse) in rows.iter_mut().zip(hosted.sparse) {
        row.iter_mut().for_each(|row| row.sparse = sparse.clone());
    }
    for (index, (model, Left { id, part, slots })) in neural.iter().zip(left).enumerate() {
        let is_on_device = model.host().is_on_device(ModelId::Sparse);
        if let Some(output) = slots.output("pooled").filter(|_| is_on_device) {
            let mut terms = vec![0.0_f32; group.len() * output.row_len];
            programs.read(*id, *part, output.slot, &mut terms)?;
            for (row, terms) in rows.iter_mut().zip(terms.chunks_exact(output.row_len)) {
                let sparse = SparseVector::from_dense(terms);
                set(row, sparse, |row, it| row.sparse = Some(it));
            }
        }
        if let Some(output) = slots.output("tokens") {
            let count: usize = group.iter().map(|it| it.1.tokens[index].ids.len()).sum();
            let mut all = vec![0.0_f32; count * output.row_len];
            programs.read(*id, *part, output.slot, &mut all)?;
            let mut rest = all.as_slice();
            for (row, (_, item)) in rows.iter_mut().zip(group) {
                let prepared = &item.tokens[index];
                let (own, more) = rest.split_at(prepared.ids.len() * output.row_len);
                rest = more;
                let matrix =
                    model.host().token_matrix(own, output.row_len, prepared.keep.as_deref());
                set(row, matrix, |row, it| row.tokens = Some(it));
            }
        }
    }
    Ok(rows)
}

/// Puts a part into a row; a part that failed makes the row fail.
fn set<T>(
    row: &mut EmbeddingResult<Row>,
    part: EmbeddingResult<T>,
    place: impl FnOnce(&mut Row, T),
) {
    match (&mut *row, part) {
        (Ok(row), Ok(part)) => place(row, part),
        (Ok(_), Err(err)) => *row = Err(err),
        (Err(_), _) => {}
    }
}

/// Slots that the host computes, by model and item.
struct Hosted {
    rows: BTreeMap<ModelId, Vec<f32>>,
    /// E6's own form where it is found on the host.
    sparse: Vec<Option<SparseVector>>,
}

impl Hosted {
    fn of(group: &[(usize, Item)]) -> Self {
        let mut hosted = Self { rows: BTreeMap::new(), sparse: Vec::new() };
        for model in ModelId::iter().filter(|it| !it.is_pretrained()) {
            let mut rows = Vec::with_capacity(group.len() * model.slot_dimension());
            for (_, item) in group {
                let slot = item.draft.slots.get(&model);
                rows.extend(slot.map_or(&[][..], |it| it.0.vector.as_slice()));
            }
            hosted.rows.insert(model, rows);
        }
        let found = group.iter().filter_map(|(_, item)| item.sparse.as_ref());
        let mut rows = Vec::new();
        for (own, slot) in found {
            rows.extend_from_slice(slot);
            hosted.sparse.push(Some(own.clone()));
        }
        if !rows.is_empty() {
            hosted.rows.insert(ModelId::Sparse, rows);
        }
        hosted
    }

    /// As inputs of a part.
    fn inputs<'a>(&'a self, fusion: &SlotFusion, part: usize) -> Vec<Input<'a>> {
        let of = |(model, slot): &(ModelId, usize)| {
            let rows = self.rows.get(model)?;
            Some(Input { part, slot: *slot, bytes: bytemuck::cast_slice(rows) })
        };
        fusion.inputs.iter().filter_map(of).collect()
    }
}

/// What comes back for an item.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) numbers: Vec<f32>,
    pub(super) sparse: Option<SparseVector>,
    pub(super) tokens: Option<TokenMatrix>,
}

impl Row {
    fn of(numbers: Vec<f32>) -> Self {
        Self { numbers, sparse: None, tokens: None }
    }
}
