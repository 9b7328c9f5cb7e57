//! Which image a request means, whether its caller may know of it, and what the caller may do.

use rest::RequestContext;
use rest::policy::Target;
use uuid::Uuid;

use crate::ImageService;
use crate::db::{images, list};
use crate::error::{Error, Result};
use crate::image::{Image, Visibility};

/// An image that the caller may see.
pub struct Visible {
    pub image: Image,
    /// Whether it is shared with the caller's project.
    is_shared: bool,
}

/// Finds an image; one that the caller may not see is not found either.
pub async fn find(service: &ImageService, context: &RequestContext, id: &str) -> Result<Visible> {
    let image = find_any(service, id).await?;
    let is_shared = match (image.visibility, &context.project_id) {
        (Visibility::Shared, Some(project)) => {
            list::is_member(&service.database, image.id, project).await?
        }
        _ => false,
    };
    let visible = Visible { image, is_shared };
    let target = visible.target(context);
    // What does not show the image to the project at all is not for a policy to open.
    if visible.is_shown(context) && service.policy.allows(context, "get_image", target) {
        return Ok(visible);
    }
    Err(Error::no_image(id))
}

/// Finds an image whoever asks.
pub async fn find_any(service: &ImageService, id: &str) -> Result<Image> {
    let uuid = Uuid::parse_str(id).map_err(|_| Error::no_image(id))?;
    images::find(&service.database, uuid)
        .await?
        .ok_or_else(|| Error::no_image(id))
}

impl Visible {
    fn is_shown(&self, context: &RequestContext) -> bool {
        let is_open = matches!(
            self.image.visibility,
            Visibility::Public | Visibility::Community
        );
        context.is_admin || is_open || self.is_shared || self.is_own(context)
    }

    fn target<'a>(&'a self, context: &'a RequestContext) -> Target<'a> {
        Target {
            member_id: context.project_id.as_deref().filter(|_| self.is_shared),
            ..target_of(&self.image)
        }
    }

    /// 403 unless the rule admits the caller; that the image exists is no secret any more.
    pub fn enforce(
        &self,
        service: &ImageService,
        context: &RequestContext,
        rule: &str,
    ) -> Result<()> {
        match service.policy.enforce(context, rule, self.target(context)) {
            Ok(()) => Ok(()),
            Err(denied) => Err(not_authorized(&denied.rule)),
        }
    }

    /// Whether the image belongs to the caller's project.
    pub fn is_own(&self, context: &RequestContext) -> bool {
        context.project_id.is_some() && context.project_id == self.image.owner
    }
}

/// What rules about an image ask for.
pub fn target_of(image: &Image) -> Target<'_> {
    Target {
        project_id: image.owner.as_deref(),
        visibility: Some(image.visibility.as_str()),
        ..Target::default()
    }
}

/// Finds an image that the caller wants to do `rule` to.
pub async fn find_for(
    service: &ImageService,
    context: &RequestContext,
    id: &str,
    rule: &str,
) -> Result<Visible> {
    let visible = find(service, context, id).await?;
    visible.enforce(service, context, rule)?;
    Ok(visible)
}

/// Glance's words for a rule that said no.
pub fn not_authorized(rule: &str) -> Error {
    Error::Forbidden(format!("You are not authorized to complete {rule} action."))
}
