//! Fused vectors over gRPC, as a client of `proto/calor.proto` sees them.

use std::collections::HashMap;

use prost::Message;

use crate::double::{fused, vector};
use crate::fixture::{Calls, Running, close};
use calor_embed::{ModelId, ModelInput};

pub(crate) const METHOD: &str = "/calor.v1.Fused/Fuse";
const STREAM: &str = "/calor.v1.Fused/FuseStream";

/// As the protocol file has it, written once more by hand.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FuseRequest {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(bytes = "vec", optional, tag = "3")]
    image: Option<Vec<u8>>,
    #[prost(string, repeated, tag = "5")]
    slots: Vec<String>,
    #[prost(bool, optional, tag = "6")]
    fused: Option<bool>,
    #[prost(bool, tag = "7")]
    sparse: bool,
    #[prost(bool, tag = "8")]
    tokens: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Vector {
    #[prost(float, repeated, tag = "1")]
    values: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct Term {
    #[prost(uint32, tag = "1")]
    index: u32,
    #[prost(float, tag = "2")]
    value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct FuseResponse {
    #[prost(float, repeated, tag = "1")]
    fused: Vec<f32>,
    #[prost(map = "string, message", tag = "2")]
    slots: HashMap<String, Vector>,
    #[prost(message, repeated, tag = "3")]
    sparse: Vec<Term>,
    #[prost(message, repeated, tag = "4")]
    tokens: Vec<Vector>,
    #[prost(uint32, repeated, tag = "6")]
    selected_experts: Vec<u32>,
    #[prost(string, repeated, tag = "7")]
    missing_models: Vec<String>,
    #[prost(string, tag = "9")]
    profile: String,
}

pub(crate) fn framed(request: &FuseRequest) -> Vec<u8> {
    let bytes = request.encode_to_vec();
    let mut out = vec![0];
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
    out
}

/// Every message of a body.
fn messages(mut body: &[u8]) -> Vec<FuseResponse> {
    let mut out = Vec::new();
    while let Some((head, rest)) = body.split_at_checked(5) {
        let len = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        let (message, rest) = rest.split_at(len);
        out.push(FuseResponse::decode(message).unwrap());
        body = rest;
    }
    out
}

/// Texts as messages of one call.
pub(crate) fn framed_texts(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|it| framed(&text(it))).collect()
}

pub(crate) fn text(text: &str) -> FuseRequest {
    FuseRequest { text: Some(text.into()), ..FuseRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn fused_vectors_come_over_grpc_with_the_slots_that_are_wanted() {
    let server = Running::start(|_| {}).await;
    let mut calls = Calls::connect(server.address).await;
    let (status, code, body) = calls.call(METHOD, framed(&text("heat"))).await;
    assert_eq!((status.as_u16(), code), (200, 0));
    let plain = &messages(&body)[0];
    close(&plain.fused, &fused("heat"));
    assert!(plain.slots.is_empty() && plain.sparse.is_empty() && plain.tokens.is_empty());
    assert_eq!(
        (plain.selected_experts.as_slice(), plain.profile.as_str()),
        (&[0, 1, 2, 3][..], "double")
    );
    let rich = FuseRequest {
        slots: vec!["e1".into(), "late_interaction".into()],
        fused: Some(false),
        sparse: true,
        tokens: true,
        ..text("two words")
    };
    let (_, code, body) = calls.call(METHOD, framed(&rich)).await;
    let rich = &messages(&body)[0];
    assert_eq!((code, rich.fused.len(), rich.slots.len()), (0, 0, 2));
    let input = ModelInput::text("two words").unwrap();
    let model = ModelId::Semantic;
    let want = vector(&input, model.index() as u64, model.slot_dimension());
    close(&rich.slots["semantic"].values, &want);
    assert_eq!((rich.sparse.len(), rich.tokens.len()), (2, 2));
    let image = FuseRequest {
        text: None,
        image: Some(include_bytes!("../../../embed/tests/data/rgba.png").to_vec()),
        ..text("")
    };
    let (_, code, body) = calls.call(METHOD, framed(&image)).await;
    let image = &messages(&body)[0];
    assert_eq!((code, image.fused.len(), image.missing_models.len()), (0, 0, 11));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fused_has_its_code_and_streams_keep_their_order() {
    let server = Running::start(|_| {}).await;
    let mut calls = Calls::connect(server.address).await;
    let unknown = FuseRequest { slots: vec!["e13".into()], ..text("a") };
    for bad in [FuseRequest::default(), text(""), unknown, text("poison")] {
        let (status, code, _) = calls.call(METHOD, framed(&bad)).await;
        assert_eq!((status.as_u16(), code), (200, 3), "{bad:?}");
    }
    let words = ["one", "two", "three", "four"];
    let body: Vec<u8> = words.iter().flat_map(|it| framed(&text(it))).collect();
    let (_, code, body) = calls.call(STREAM, body).await;
    assert_eq!(code, 0);
    let answers = messages(&body);
    assert_eq!(answers.len(), words.len());
    for (answer, word) in answers.iter().zip(words) {
        close(&answer.fused, &fused(word));
    }
}
