//! The service of all slots and the fused vector.

use calor_embed::PipelineOutput;
use calor_embed::input::ModelInput;
use tonic::{Request, Response, Status, Streaming};

use super::calor::fuse_request::Input as Given;
use super::calor::fused_server::Fused;
use super::calor::{FuseRequest, FuseResponse, Term, Vector};
use super::{Answers, Context, Services};
use crate::counting::{Cut, Input};
use crate::operations::{Named, flag_words, image, slots_named, text};
use crate::refusal::Refusal;

impl Services {
    async fn fuse_one(
        self,
        request: FuseRequest,
        context: Context,
    ) -> Result<FuseResponse, Refusal> {
        let FuseRequest { input, instruction, slots, fused, sparse, tokens, truncate } = request;
        let named = slots;
        let slots = slots_named(&named)?;
        let input = match input.ok_or(Refusal::NoInputs)? {
            Given::Text(it) => text(it, instruction.as_deref())?,
            Given::Code(it) => ModelInput::code(it.source, it.language)?,
            Given::Image(it) => image(it)?,
        };
        let cut = Cut { truncate, is_left: false };
        let inputs = vec![Input::Whole(input)];
        let named = Named { slots: &named, fused: fused.unwrap_or(true) };
        let (own_forms, terms) = (sparse || tokens, context.terms);
        let (answered, live) = self.0.fused(inputs, named, own_forms, cut, terms).await?;
        let (answers, summary) = answered.all()?;
        context.answered(&self.0, &summary);
        let mut response = FuseResponse {
            profile: live.about.profile.into(),
            untrained: live.about.untrained.iter().map(|it| (*it).into()).collect(),
            compute_tokens: u32::try_from(summary.token_count).unwrap_or(u32::MAX),
            total_time_ns: summary.total_ns,
            queue_time_ns: summary.queue_ns,
            inference_time_ns: summary.inference_ns,
            ..FuseResponse::default()
        };
        let Some(answer) = answers.first() else { return Ok(response) };
        let output: &PipelineOutput = &answer.output;
        if let Some(it) = output.fused.as_ref().filter(|_| fused.unwrap_or(true)) {
            response.fused = it.vector.clone();
            response.expert_weights = it.expert_weights.to_vec();
            response.selected_experts = it.selected_experts.iter().map(|it| (*it).into()).collect();
        }
        for model in slots {
            if let Some(it) = output.embeddings.get(model) {
                let values = it.vector.clone();
                response.slots.insert(model.as_str().into(), Vector { values });
            }
        }
        if let Some(it) = output.sparse.as_ref().filter(|_| sparse) {
            let pairs = it.indices().iter().zip(it.values());
            response.sparse =
                pairs.map(|(index, value)| Term { index: *index, value: *value }).collect();
        }
        if let Some(it) = output.tokens.as_ref().filter(|_| tokens) {
            response.tokens = it.rows().map(|it| Vector { values: it.to_vec() }).collect();
        }
        let missing = output.embeddings.missing_models();
        response.missing_models = missing.iter().map(|it| it.as_str().into()).collect();
        response.flags = flag_words(output.flags).into_iter().map(Into::into).collect();
        Ok(response)
    }
}

#[tonic::async_trait]
impl Fused for Services {
    async fn fuse(&self, request: Request<FuseRequest>) -> Result<Response<FuseResponse>, Status> {
        self.unary(request, Self::fuse_one).await
    }

    type FuseStreamStream = Answers<FuseResponse>;

    async fn fuse_stream(
        &self,
        request: Request<Streaming<FuseRequest>>,
    ) -> Result<Response<Self::FuseStreamStream>, Status> {
        self.stream(request, Self::fuse_one)
    }
}
