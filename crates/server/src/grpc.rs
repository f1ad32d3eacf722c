//! gRPC: the services of text-embeddings-inference and our own for fused vectors, with health and
//! reflection.

mod embed;
mod fused;
mod rerank;
mod tokenize;
mod traced;

use std::sync::Arc;

use axum::Router;
use futures_util::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use crate::http::has_key;
use crate::operations::prompt;
use crate::options::{Secret, Target};
use crate::readiness::Phase;
use crate::refusal::Refusal;
use crate::server::ServerError;
use crate::service::{Service, Summary, Terms};

/// Messages and services of `proto/tei.proto`.
#[expect(
    unreachable_pub,
    clippy::allow_attributes,
    reason = "generated; the protocol file says what they are"
)]
pub(crate) mod tei {
    tonic::include_proto!("tei.v1");
}

/// Messages and services of `proto/calor.proto`.
#[expect(
    unreachable_pub,
    clippy::allow_attributes,
    reason = "generated; the protocol file says what they are"
)]
pub(crate) mod calor {
    tonic::include_proto!("calor.v1");
}

/// What reflection answers with.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
/// Requests of one stream that are answered at once; answers keep their order.
const STREAM_WINDOW: usize = 64;
/// Metadata that names the model.
const MODEL: &str = "x-calor-model";

use traced::Call;

use calor::fused_server::FusedServer;
use tei::embed_server::EmbedServer;
use tei::info_server::{Info, InfoServer};
use tei::predict_server::{Predict, PredictServer};
use tei::rerank_server::RerankServer;
use tei::tokenize_server::TokenizeServer;

/// The services behind their doors.
#[derive(Clone)]
pub(super) struct Services(Arc<Service>);

/// Every service, as routes beside those of HTTP.
pub(crate) async fn router(service: Arc<Service>) -> Result<Router, ServerError> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut phases = service.readiness.watch();
    let follow = {
        let reporter = reporter.clone();
        async move {
            loop {
                let phase = *phases.borrow_and_update();
                report(&reporter, phase).await;
                if phases.changed().await.is_err() {
                    return;
                }
            }
        }
    };
    report(&reporter, Phase::Warming).await;
    tokio::spawn(follow);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|source| ServerError::Reflection { source })?;
    let max = service.options.limits.payload_bytes_max;
    let key = service.options.api_key.clone();
    let own = Services(service.clone());
    let door = move |request: Request<()>| check_key(key.as_ref(), request);
    let info = InfoServer::new(own.clone()).max_decoding_message_size(max);
    let embed = EmbedServer::new(own.clone()).max_decoding_message_size(max);
    let predict = PredictServer::new(own.clone()).max_decoding_message_size(max);
    let rerank = RerankServer::new(own.clone()).max_decoding_message_size(max);
    let fused = FusedServer::new(own.clone()).max_decoding_message_size(max);
    let tokenize = TokenizeServer::new(own).max_decoding_message_size(max);
    let routes = Routes::new(health)
        .add_service(reflection)
        .add_service(InterceptedService::new(info, door.clone()))
        .add_service(InterceptedService::new(embed, door.clone()))
        .add_service(InterceptedService::new(fused, door.clone()))
        .add_service(InterceptedService::new(predict, door.clone()))
        .add_service(InterceptedService::new(rerank, door.clone()))
        .add_service(InterceptedService::new(tokenize, door));
    let layer = axum::middleware::from_fn_with_state(service, traced::traced);
    Ok(routes.prepare().into_axum_router().route_layer(layer))
}

async fn report(reporter: &tonic_health::server::HealthReporter, phase: Phase) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if phase == Phase::Ready { Serving } else { NotServing };
    let tei = ["tei.v1.Info", "tei.v1.Embed", "tei.v1.Rerank", "tei.v1.Tokenize"];
    for name in ["", "calor.v1.Fused"].into_iter().chain(tei) {
        reporter.set_service_status(name, status).await;
    }
    // No model classifies.
    reporter.set_service_status("tei.v1.Predict", NotServing).await;
}

fn check_key(key: Option<&Secret>, request: Request<()>) -> Result<Request<()>, Status> {
    match has_key(key, request.metadata().as_ref()) {
        true => Ok(request),
        false => Err(Status::unauthenticated(Refusal::Unauthorized.to_string())),
    }
}

impl Services {
    /// A refusal, counted.
    fn status(&self, refusal: Refusal) -> Status {
        self.0.metrics.failed(refusal.native());
        let mut status = Status::new(refusal.grpc(), refusal.to_string());
        if let Some(seconds) = refusal.retry_after_s() {
            let seconds = seconds.to_string();
            if let Ok(value) = seconds.parse() {
                status.metadata_mut().insert("retry-after", value);
            }
        }
        status
    }

    /// The model that the metadata names, else the default one.
    fn target(&self, context: &Context) -> Result<Target, Refusal> {
        self.0.target(&*self.0.live()?, context.model.as_deref())
    }

    /// Answers one request with `work`.
    async fn unary<In, Out, F>(
        &self,
        request: Request<In>,
        work: impl Fn(Self, In, Context) -> F,
    ) -> Result<Response<Out>, Status>
    where
        F: Future<Output = Result<Out, Refusal>>,
    {
        let context = Context::of(&request).map_err(|it| self.status(it))?;
        let answer = work(self.clone(), request.into_inner(), context).await;
        answer.map(Response::new).map_err(|it| self.status(it))
    }

    /// Answers each request of a stream with `work`, several at once, in their order.
    fn stream<In, Out, F>(
        &self,
        request: Request<tonic::Streaming<In>>,
        work: impl Fn(Self, In, Context) -> F + Send + 'static,
    ) -> Result<Response<Answers<Out>>, Status>
    where
        In: Send + 'static,
        Out: Send + 'static,
        F: Future<Output = Result<Out, Refusal>> + Send + 'static,
    {
        let context = Context::of(&request).map_err(|it| self.status(it))?;
        let own = self.clone();
        let answers = request.into_inner().map(move |message| {
            let (own, context) = (own.clone(), context.clone());
            let answer = message.map(|message| work(own.clone(), message, context));
            async move {
                match answer {
                    Ok(answer) => answer.await.map_err(|it| own.status(it)),
                    Err(status) => Err(status),
                }
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(STREAM_WINDOW))))
    }
}

/// Answers of a stream.
pub(super) type Answers<T> =
    std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;

/// What a request's metadata says.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    model: Option<String>,
    terms: Terms,
    /// Where what it took is told, if spans are sent.
    call: Option<Arc<Call>>,
}

impl Context {
    fn of<T>(request: &Request<T>) -> Result<Self, Refusal> {
        let metadata: &MetadataMap = request.metadata();
        let text = |name: &str| metadata.get(name).and_then(|it| it.to_str().ok());
        let priority = match text(crate::http::PRIORITY) {
            None => calor_embed::batching::Priority::Query,
            Some(it) => crate::http::priority(it)?,
        };
        let timeout = text("grpc-timeout").and_then(timeout);
        let model = text(MODEL).map(str::to_owned);
        let call = request.extensions().get::<Arc<Call>>().cloned();
        Ok(Self { model, terms: Terms { priority, timeout }, call })
    }

    /// A message was answered.
    fn answered(&self, service: &Service, summary: &Summary) {
        if let (Some(call), Some(traces)) = (&self.call, &service.traces) {
            call.answered(traces, summary);
        }
    }
}

/// As gRPC writes it: at most eight digits and a unit.
fn timeout(text: &str) -> Option<std::time::Duration> {
    use std::time::Duration;
    let at = text.len().checked_sub(1).filter(|it| text.is_char_boundary(*it))?;
    let (digits, unit) = text.split_at(at);
    let is_number = !digits.is_empty() && digits.len() <= 8;
    let is_number = is_number && digits.bytes().all(|it| it.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(3600 * count)),
        "M" => Some(Duration::from_secs(60 * count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn metadata(summary: &Summary) -> Option<tei::Metadata> {
    let small = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
    Some(tei::Metadata {
        compute_chars: small(summary.char_count),
        compute_tokens: small(summary.token_count),
        total_time_ns: summary.total_ns,
        tokenization_time_ns: summary.tokenization_ns,
        queue_time_ns: summary.queue_ns,
        inference_time_ns: summary.inference_ns,
    })
}

/// What happens to long texts. The field cannot be absent in the protocol: unset is "as the
/// server was told".
fn cut(truncate: bool, direction: i32) -> crate::counting::Cut {
    let is_left = direction == tei::TruncationDirection::Left as i32;
    crate::counting::Cut { truncate: truncate.then_some(true), is_left }
}

fn instruction(prompt_name: Option<&String>) -> Result<Option<&'static str>, Refusal> {
    prompt(prompt_name.map(String::as_str).filter(|it| !it.is_empty()))
}

#[tonic::async_trait]
impl Info for Services {
    async fn info(
        &self,
        _: Request<tei::InfoRequest>,
    ) -> Result<Response<tei::InfoResponse>, Status> {
        let live = self.0.live().map_err(|it| self.status(it))?;
        let limits = &self.0.options.limits;
        let batch = &self.0.options.batch;
        let target = self.0.default_target(&live);
        let small = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
        let length = live.tokenizer(target).map_or(0, |it| it.1.token_count_max);
        Ok(Response::new(tei::InfoResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            sha: None,
            docker_label: None,
            model_id: format!("calor-{}", live.about.profile),
            model_sha: None,
            model_dtype: live.about.precision.into(),
            model_type: tei::ModelType::Embedding.into(),
            max_concurrent_requests: small(limits.request_count_max),
            max_input_length: small(length),
            max_batch_tokens: small(batch.max_batch_tokens),
            max_batch_requests: Some(small(batch.max_batch_size)),
            max_client_batch_size: small(limits.client_batch_max),
            tokenization_workers: 1,
        }))
    }
}

const NO_CLASSES: &str = "no model classifies";

#[tonic::async_trait]
impl Predict for Services {
    async fn predict(
        &self,
        _: Request<tei::PredictRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        Err(self.status(Refusal::WrongModel { what: NO_CLASSES }))
    }

    async fn predict_pair(
        &self,
        _: Request<tei::PredictPairRequest>,
    ) -> Result<Response<tei::PredictResponse>, Status> {
        Err(self.status(Refusal::WrongModel { what: NO_CLASSES }))
    }

    type PredictStreamStream = Answers<tei::PredictResponse>;

    async fn predict_stream(
        &self,
        _: Request<tonic::Streaming<tei::PredictRequest>>,
    ) -> Result<Response<Self::PredictStreamStream>, Status> {
        Err(self.status(Refusal::WrongModel { what: NO_CLASSES }))
    }

    type PredictPairStreamStream = Answers<tei::PredictResponse>;

    async fn predict_pair_stream(
        &self,
        _: Request<tonic::Streaming<tei::PredictPairRequest>>,
    ) -> Result<Response<Self::PredictPairStreamStream>, Status> {
        Err(self.status(Refusal::WrongModel { what: NO_CLASSES }))
    }
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    use std::time::Duration;
    assert_eq!(timeout("100m"), Some(Duration::from_millis(100)));
    assert_eq!(timeout("2S"), Some(Duration::from_secs(2)));
    for bad in ["", "S", "10", "123456789m", "-1S", "1x", "é"] {
        assert_eq!(timeout(bad), None, "`{bad}`");
    }
}
