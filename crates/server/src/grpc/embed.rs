//! The service that embeds.

use tonic::{Request, Response, Status, Streaming};

use super::tei::embed_server::Embed;
use super::{Answers, Context, Services, cut, instruction, metadata, tei};
use crate::counting::Input;
use crate::operations::{Shape, text};
use crate::refusal::Refusal;

impl Services {
    async fn one(
        self,
        request: tei::EmbedRequest,
        context: Context,
    ) -> Result<tei::EmbedResponse, Refusal> {
        let target = self.target(&context)?;
        let instruction = instruction(request.prompt_name.as_ref())?;
        let inputs = vec![Input::Whole(text(request.inputs, instruction)?)];
        let dimensions = request.dimensions.map(|it| it as usize);
        let shape = Shape { normalize: request.normalize, dimensions };
        let cut = cut(request.truncate, request.truncation_direction);
        let (mut rows, summary) = self.0.embed(target, inputs, shape, cut, context.terms).await?;
        context.answered(&self.0, &summary);
        let embeddings = rows.pop().unwrap_or_default();
        Ok(tei::EmbedResponse { embeddings, metadata: metadata(&summary) })
    }

    async fn one_sparse(
        self,
        request: tei::EmbedSparseRequest,
        context: Context,
    ) -> Result<tei::EmbedSparseResponse, Refusal> {
        let instruction = instruction(request.prompt_name.as_ref())?;
        let inputs = vec![Input::Whole(text(request.inputs, instruction)?)];
        let cut = cut(request.truncate, request.truncation_direction);
        let (rows, summary) = self.0.embed_sparse(inputs, cut, context.terms).await?;
        context.answered(&self.0, &summary);
        let value =
            |(index, value): (&u32, &f32)| tei::SparseValue { index: *index, value: *value };
        let pairs = rows.iter().flat_map(|it| it.indices().iter().zip(it.values()));
        Ok(tei::EmbedSparseResponse {
            sparse_embeddings: pairs.map(value).collect(),
            metadata: metadata(&summary),
        })
    }

    async fn one_all(
        self,
        request: tei::EmbedAllRequest,
        context: Context,
    ) -> Result<tei::EmbedAllResponse, Refusal> {
        let instruction = instruction(request.prompt_name.as_ref())?;
        let inputs = vec![Input::Whole(text(request.inputs, instruction)?)];
        let cut = cut(request.truncate, request.truncation_direction);
        let (rows, summary) = self.0.embed_all(inputs, cut, context.terms).await?;
        context.answered(&self.0, &summary);
        let row = |it: &[f32]| tei::TokenEmbedding { embeddings: it.to_vec() };
        Ok(tei::EmbedAllResponse {
            token_embeddings: rows.iter().flat_map(|it| it.rows().map(row)).collect(),
            metadata: metadata(&summary),
        })
    }
}

#[tonic::async_trait]
impl Embed for Services {
    async fn embed(
        &self,
        request: Request<tei::EmbedRequest>,
    ) -> Result<Response<tei::EmbedResponse>, Status> {
        self.unary(request, Self::one).await
    }

    type EmbedStreamStream = Answers<tei::EmbedResponse>;

    async fn embed_stream(
        &self,
        request: Request<Streaming<tei::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        self.stream(request, Self::one)
    }

    async fn embed_sparse(
        &self,
        request: Request<tei::EmbedSparseRequest>,
    ) -> Result<Response<tei::EmbedSparseResponse>, Status> {
        self.unary(request, Self::one_sparse).await
    }

    type EmbedSparseStreamStream = Answers<tei::EmbedSparseResponse>;

    async fn embed_sparse_stream(
        &self,
        request: Request<Streaming<tei::EmbedSparseRequest>>,
    ) -> Result<Response<Self::EmbedSparseStreamStream>, Status> {
        self.stream(request, Self::one_sparse)
    }

    async fn embed_all(
        &self,
        request: Request<tei::EmbedAllRequest>,
    ) -> Result<Response<tei::EmbedAllResponse>, Status> {
        self.unary(request, Self::one_all).await
    }

    type EmbedAllStreamStream = Answers<tei::EmbedAllResponse>;

    async fn embed_all_stream(
        &self,
        request: Request<Streaming<tei::EmbedAllRequest>>,
    ) -> Result<Response<Self::EmbedAllStreamStream>, Status> {
        self.stream(request, Self::one_all)
    }
}
