//! The service that shows tokens and makes them text again.

use tonic::{Request, Response, Status, Streaming};

use super::tei::tokenize_server::Tokenize;
use super::{Answers, Context, Services, tei};
use crate::refusal::Refusal;

impl Services {
    async fn pieces(
        self,
        request: tei::EncodeRequest,
        context: Context,
    ) -> Result<tei::EncodeResponse, Refusal> {
        let (texts, special) = ([request.inputs], request.add_special_tokens);
        let rows = self.0.tokenize(context.model.as_deref(), &texts, special)?;
        let small = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
        let token = |it: calor_embed::tokenizer::TokenPiece| tei::SimpleToken {
            id: it.id,
            text: it.text,
            special: it.special,
            start: it.range.as_ref().map(|it| small(it.start)),
            stop: it.range.as_ref().map(|it| small(it.end)),
        };
        Ok(tei::EncodeResponse { tokens: rows.into_iter().flatten().map(token).collect() })
    }

    async fn text(
        self,
        request: tei::DecodeRequest,
        context: Context,
    ) -> Result<tei::DecodeResponse, Refusal> {
        let (lists, skip) = ([request.ids], request.skip_special_tokens);
        let mut texts = self.0.decode(context.model.as_deref(), &lists, skip)?;
        Ok(tei::DecodeResponse { text: texts.pop().unwrap_or_default() })
    }
}

#[tonic::async_trait]
impl Tokenize for Services {
    async fn tokenize(
        &self,
        request: Request<tei::EncodeRequest>,
    ) -> Result<Response<tei::EncodeResponse>, Status> {
        self.unary(request, Self::pieces).await
    }

    type TokenizeStreamStream = Answers<tei::EncodeResponse>;

    async fn tokenize_stream(
        &self,
        request: Request<Streaming<tei::EncodeRequest>>,
    ) -> Result<Response<Self::TokenizeStreamStream>, Status> {
        self.stream(request, Self::pieces)
    }

    async fn decode(
        &self,
        request: Request<tei::DecodeRequest>,
    ) -> Result<Response<tei::DecodeResponse>, Status> {
        self.unary(request, Self::text).await
    }

    type DecodeStreamStream = Answers<tei::DecodeResponse>;

    async fn decode_stream(
        &self,
        request: Request<Streaming<tei::DecodeRequest>>,
    ) -> Result<Response<Self::DecodeStreamStream>, Status> {
        self.stream(request, Self::text)
    }
}
