//! What only the holder of the admin key may do.

use axum::Json;
use axum::extract::State;

use super::probe::warmup_body;
use super::{App, Native};
use crate::refusal::Refusal;
use crate::wire::native::ErrorBody;
use crate::wire::report::WarmupBody;

/// Opens the models anew from where they lie, warms them beside the ones that serve, and puts
/// them in their place. Nothing is dropped; where it fails the old ones stay.
#[utoipa::path(post, path = "/admin/swap", tag = "admin",
    responses((status = 200, body = WarmupBody), (status = 401, body = ErrorBody),
        (status = 424, body = ErrorBody)))]
pub(super) async fn swap(State(app): State<App>) -> Result<Json<WarmupBody>, Native> {
    app.swap().await.map_err(Refusal::Whole)?;
    Ok(Json(warmup_body(&app)?))
}

/// Runs every model once, so that a device that slept is awake.
#[utoipa::path(post, path = "/admin/warmup", tag = "admin",
    responses((status = 200, body = WarmupBody), (status = 401, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub(super) async fn warmup(State(app): State<App>) -> Result<Json<WarmupBody>, Native> {
    app.live()?;
    app.batcher.keep_warm().await;
    Ok(Json(warmup_body(&app)?))
}
