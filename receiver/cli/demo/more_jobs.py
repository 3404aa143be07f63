"""Further jobs of `demo --keep`, so that the console has something to show."""

from receiver.client import SyncClient

BATCH = "spring-campaign"

_IMAGE = "images/multi-image2image"
_VIDEO = "videos/text2video"
_JOBS = (
    (_IMAGE, "a lighthouse in a storm, long exposure", "posters"),
    (_IMAGE, "an old typewriter overgrown with moss, macro", "posters"),
    (_VIDEO, "two astronauts sharing tea on the moon", "clips"),
    (_IMAGE, "a red fox in fresh snow, morning light", "posters"),
    (_IMAGE, "street food market at night, neon and rain", "posters"),
    (_VIDEO, "paper boats crossing a puddle, slow motion", "clips"),
    (_IMAGE, "the harbour at dusk, oil on canvas", "covers"),
    (_IMAGE, "a bakery window at five in the morning [fail: the content could not be generated]", "covers"),
    (_IMAGE, "a glasshouse full of ferns, soft light", "covers"),
    (_VIDEO, "clouds over a mountain pass, time lapse [slow]", "clips"),
    (_IMAGE, "a map of an island that does not exist [slow]", "covers"),
)


def submit_more(client: SyncClient) -> None:
    """Submit the jobs, without waiting for them."""
    for endpoint, prompt, project in _JOBS:
        body: dict[str, object] = {"model_name": "kling-v2-1", "prompt": prompt}
        if endpoint == _IMAGE:
            body["subject_image_list"] = [{"subject_image": "https://example.com/subject.png"}]
        label, tags = prompt.partition(",")[0].partition(" [")[0], {"project": project}
        client.submit(endpoint, body, label=label, tags=tags, batch={"name": BATCH, "size": len(_JOBS)}, wait=False)
