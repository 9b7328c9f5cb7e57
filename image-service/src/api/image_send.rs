//! Tells who has had an image's data: `image.send`, once the answer has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::response::Response;
use futures_util::{Stream, StreamExt};
use http::header;
use rest::RequestContext;

use crate::ImageService;
use crate::image::Image;
use crate::notices::By;

/// The answer, watched until its last byte is taken or its client is gone.
pub fn watched(
    service: &Arc<ImageService>,
    context: &RequestContext,
    image: &Image,
    response: Response,
) -> Response {
    if !service.notices.is_wanted() {
        return response;
    }
    let length = response.headers().get(header::CONTENT_LENGTH);
    let expected_bytes = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let told = Told {
        expected_bytes,
        service: service.clone(),
        by: By::from(context),
        image: image.clone(),
    };
    response.map(|body| {
        Body::from_stream(Watched {
            data: body.into_data_stream(),
            sent_bytes: 0,
            told: Some(told),
        })
    })
}

/// What is told at the end.
struct Told {
    service: Arc<ImageService>,
    by: By,
    image: Image,
    expected_bytes: Option<u64>,
}

impl Told {
    async fn tell(self, sent_bytes: u64) {
        let is_complete = self
            .expected_bytes
            .or(self.image.size_bytes)
            .is_none_or(|expected| expected == sent_bytes);
        let told = async {
            let mut tx = self.service.database.begin().await?;
            let notices = &self.service.notices;
            notices
                .sent(&mut tx, &self.image, sent_bytes, is_complete, self.by)
                .await?;
            tx.commit().await
        };
        if let Err(error) = told.await {
            tracing::warn!(image = %self.image.id, %error, "nobody is told of a download");
        }
    }
}

struct Watched {
    data: BodyDataStream,
    sent_bytes: u64,
    told: Option<Told>,
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = self.data.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(data))) = &piece {
            self.sent_bytes = self.sent_bytes.saturating_add(data.len() as u64);
        }
        piece
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(told) = self.told.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(told.tell(self.sent_bytes));
        }
    }
}
