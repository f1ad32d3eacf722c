//! The service that puts texts in order.

use futures_util::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::tei::rerank_server::Rerank;
use super::{Context, Services, cut, metadata, tei};
use crate::refusal::Refusal;

impl Services {
    async fn order(
        self,
        request: tei::RerankRequest,
        context: Context,
    ) -> Result<tei::RerankResponse, Refusal> {
        let tei::RerankRequest { query, texts, truncate, raw_scores, return_text, .. } = request;
        let cut = cut(truncate, request.truncation_direction);
        let kept = if return_text { texts.clone() } else { Vec::new() };
        let (ranked, summary) = self.0.rerank(query, texts, raw_scores, cut, context.terms).await?;
        context.answered(&self.0, &summary);
        let rank = |it: crate::operations::Ranked| tei::Rank {
            index: u32::try_from(it.index).unwrap_or(u32::MAX),
            text: kept.get(it.index).cloned(),
            score: it.score as f32,
        };
        let ranks = ranked.into_iter().map(rank).collect();
        Ok(tei::RerankResponse { ranks, metadata: metadata(&summary) })
    }
}

#[tonic::async_trait]
impl Rerank for Services {
    async fn rerank(
        &self,
        request: Request<tei::RerankRequest>,
    ) -> Result<Response<tei::RerankResponse>, Status> {
        self.unary(request, Self::order).await
    }

    async fn rerank_stream(
        &self,
        request: Request<Streaming<tei::RerankStreamRequest>>,
    ) -> Result<Response<tei::RerankResponse>, Status> {
        let context = Context::of(&request).map_err(|it| self.status(it))?;
        let max = self.0.options.limits.client_batch_max;
        let mut messages = request.into_inner();
        let mut whole: Option<tei::RerankRequest> = None;
        while let Some(message) = messages.next().await {
            let message = message?;
            let request = whole.get_or_insert_with(|| tei::RerankRequest {
                query: message.query,
                texts: Vec::new(),
                truncate: message.truncate,
                raw_scores: message.raw_scores,
                return_text: message.return_text,
                truncation_direction: message.truncation_direction,
            });
            request.texts.push(message.text);
            // What is too much is not collected first.
            if max < request.texts.len() {
                let got = request.texts.len();
                return Err(self.status(Refusal::TooManyInputs { got, max }));
            }
        }
        let Some(request) = whole else { return Err(self.status(Refusal::NoInputs)) };
        let answer = self.clone().order(request, context).await;
        answer.map(Response::new).map_err(|it| self.status(it))
    }
}
