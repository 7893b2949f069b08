"""The graphs of the workflows that ship: only what differs from the nodes' defaults stands here.

`make_workflows.py` fills in the defaults, arranges the nodes in columns and writes the files.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]

PROMPT = ("A golden retriever runs along a sunlit beach and splashes through shallow waves, the camera tracking beside "
          "it at the height of its shoulders. Water drops sparkle in the low evening sun. Waves roll in softly, water "
          "splashes with every step, and the dog barks twice.")
IMAGE_PROMPT = ("The camera slowly moves closer while the scene comes to life: light shifts, hair and cloth move in a "
                "gentle breeze. Soft wind and distant birdsong are heard.")
BETWEEN_PROMPT = ("One continuous shot: the scene changes smoothly from the first picture to the last one, the camera "
                  "gliding forward. A low hum of wind swells and fades.")
CONTROL_PROMPT = ("A robot made of brushed copper dances on an empty stage under a single warm spotlight. Metal joints "
                  "click in time with a slow beat.")
SPEECH_PROMPT = ("A woman with short grey hair sits at a kitchen table and speaks calmly into the camera, her hands "
                 "moving a little as she talks. Her voice is clear, the room is quiet.")
EXTEND_PROMPT = ("The shot goes on without a cut: the same place, the same light, the movement continues at the same "
                 "pace, and the sound carries on.")
RETAKE_PROMPT = ("The same scene and the same camera; now a red balloon drifts through the picture, and a child laughs "
                 "off screen.")
FOLEY_PROMPT = ("What is seen is heard: steps, cloth, the things that are touched, and the quiet sound of the place "
                "around them.")
SOUND_PROMPT = ("Rain falls on a tin roof. Thunder rolls far away. A man says slowly: \"It will pass by morning.\" A "
                "kettle begins to whistle.")
LONG_PROMPT = """A fox walks through fresh snow at dawn, the camera following low behind it. Paws crunch softly.
---
The fox stops, lifts its head and listens. The wind drops; far away an owl calls.
---
The fox breaks into a run towards the dark edge of the forest, snow flying up. Fast steps, then silence.
---
Between the trees it is almost dark. The fox looks back once. Branches creak."""
IC_LORA = "ltx-2.3-22b-ic-lora-union-control-ref0.5.safetensors"
FILES = dict.fromkeys(("checkpoint", "text_encoder", "upsampler", "distilled_lora", "variant", "text_projection",
                       "video_vae", "audio_vae"), "auto")
PREFIX = "video/LTX-2.3"
WORDS = {"hq": "HQ", "ic_lora": "IC LoRA"}  # where the name alone would read badly
CHOOSE = {"LoadImage": "Choose your picture", "LoadVideo": "Choose your clip", "LoadAudio": "Choose your sound",
          "LoadImageMask": "Choose your mask"}  # titles: the examples are on nobody's computer


@dataclass(frozen=True)
class Workflow:
    """One workflow.

    Attributes:
        name: of its file for clients; see `Workflow.title`.
        text: for its note, above the table of files.
        graph: node id -> class and inputs; ids are those of the page too. A link is a list [id, output].
        upscaler, lora: whether the note names the x2 upscaler, the distilled LoRA.
    """

    name: str
    text: str
    graph: Graph = field(hash=False)
    upscaler: bool = False
    lora: bool = False

    def title(self, number: int) -> str:
        """Name of its file for the page, which shows it: "07 Image to video"."""
        words = WORDS.get(self.name) or self.name.replace("_", " ").capitalize()
        return f"{number:02} {words}"


def ui_file(folder: Path, name: str) -> Path:
    """The file of a workflow for the page: "03 Image to video.json" for image_to_video."""
    [path] = [path for path in folder.glob("*.json") if path.stem.partition(" ")[2].lower().replace(" ", "_") == name]
    return path


def node(class_type: str, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401
    """One node of a graph."""
    return {"class_type": class_type, "inputs": inputs}


def base(prompt: str = "", **sampler: Any) -> Graph:  # noqa: ANN401
    """Overlay (1), Load (2), Sampler (3): what every workflow has."""
    return {"1": node("LTX23Overlay", **FILES), "2": node("LTX23Load", overlay=["1", 0]),
            "3": node("LTX23Sampler", model=["2", 0], prompt=prompt, **sampler)}


def saved(graph: Graph) -> Graph:
    """Decode To File (4) behind the sampler."""
    graph["4"] = node("LTX23DecodeToFile", model=["2", 0], video=["3", 0], audio=["3", 1], filename_prefix=PREFIX)
    return graph


def conditioned(prompt: str, nodes: Graph, last: str, **sampler: Any) -> Graph:  # noqa: ANN401
    """The base with conditions, the last of which is linked to the sampler."""
    return saved(base(prompt, conditions=[last, 0], **sampler) | nodes)


def with_prompt(**sampler: Any) -> Graph:  # noqa: ANN401
    """The base with a Prompt node (5), whose result is kept while seed and size change."""
    graph = saved(base(context=["5", 0], **sampler))
    graph["5"] = node("LTX23Prompt", model=["2", 0], prompt=PROMPT)
    return graph


def text_to_video() -> Graph:
    """With ComfyUI's own Create Video and Save Video."""
    graph = with_prompt()
    del graph["4"]
    return graph | {
        "6": node("LTX23DecodeVideo", model=["2", 0], video=["3", 0]),
        "7": node("LTX23DecodeAudio", model=["2", 0], audio=["3", 1]),
        "8": node("CreateVideo", images=["6", 0], fps=["3", 2], audio=["7", 0]),
        "9": node("SaveVideo", video=["8", 0], filename_prefix=PREFIX)}


def image_to_video() -> Graph:
    """The first frame is a picture; the prompt is encoded once."""
    graph = with_prompt(conditions=["11", 0])
    graph["5"]["inputs"]["prompt"] = IMAGE_PROMPT
    return graph | {"10": node("LoadImage", image="example.png"),
                    "11": node("LTX23ImageCondition", image=["10", 0])}


def stages_apart() -> Graph:
    """Sampler, Latent Upscale, Sampler: the same result as the recipe in one node."""
    size = {"recipe": "two_stage", "width": 1536, "height": 1024, "context": ["5", 0]}
    graph = base(stages="first", **size)
    return graph | {
        "5": node("LTX23Prompt", model=["2", 0], prompt=PROMPT),
        "6": node("LTX23LatentUpscale", model=["2", 0], video=["3", 0]),
        "7": node("LTX23Sampler", model=["2", 0], prompt="", stages="second", start_video=["6", 0],
                  start_audio=["3", 1], **size),
        "4": node("LTX23DecodeToFile", model=["2", 0], video=["7", 0], audio=["7", 1], filename_prefix=PREFIX)}


def ic_lora() -> Graph:
    """A reference video steers an IC-LoRA, on the distilled recipe as official."""
    graph = conditioned(CONTROL_PROMPT, {
        "10": node("LoadVideo", file="example.mp4"),
        "11": node("LTX23ReferenceVideo", lora="none", video=["10", 0], model=["12", 0]),
        "12": node("LTX23LoRA", model=["2", 0], lora=IC_LORA, stages="first")}, "11",
        recipe="distilled", width=1536, height=1024)
    graph["3"]["inputs"]["model"] = ["12", 0]
    return graph


def text_to_audio() -> Graph:
    """Sound alone."""
    return base(SOUND_PROMPT, streams="audio", frames=241) | {
        "4": node("LTX23DecodeAudio", model=["2", 0], audio=["3", 1]),
        "5": node("SaveAudio", audio=["4", 0], filename_prefix="audio/LTX-2.3")}


def long_video() -> Graph:
    """Four windows, each with its prompt."""
    graph = saved(base(windows=["5", 0], frames=409))
    graph["5"] = node("LTX23LongVideo", model=["2", 0], prompts=LONG_PROMPT)
    return graph


def enhance_prompt() -> Graph:
    """A short prompt is written out by Gemma."""
    graph = saved(base())
    graph["5"] = node("LTX23EnhancePrompt", model=["2", 0], prompt="a lighthouse in a storm at night")
    graph["3"]["inputs"]["prompt"] = ["5", 0]
    return graph


def clip(class_type: str, **inputs: Any) -> Graph:  # noqa: ANN401
    """A clip from Load Video (10) for a condition node (11)."""
    return {"10": node("LoadVideo", file="example.mp4"), "11": node(class_type, video=["10", 0], **inputs)}


def image(number: int, **inputs: Any) -> Graph:  # noqa: ANN401
    """A picture from Load Image for an Image Condition, at ids 10 + 2 n and 11 + 2 n."""
    load, condition = str(10 + 2 * number), str(11 + 2 * number)
    return {load: node("LoadImage", image="example.png"),
            condition: node("LTX23ImageCondition", image=[load, 0], **inputs)}


def workflows() -> list[Workflow]:
    """The graphs that ship."""
    both = {"upscaler": True, "lora": True}
    return [
        Workflow("quick_start", "Four nodes: a prompt becomes a video with sound.", saved(base(PROMPT))),
        Workflow("text_to_video", "The frames and the sound as IMAGE and AUDIO, for any other node.", text_to_video()),
        Workflow("image_to_video", "The video begins with your picture. Describe what moves.", image_to_video()),
        Workflow("first_last_frame", "The video goes from one picture to another.", conditioned(
            BETWEEN_PROMPT, image(0) | image(1, frame=-1, conditions=["11", 0]), "13")),
        Workflow("keyframes", "Pictures at frames of your choice (*at_frames*); all of them guide, none is pasted in.",
                 conditioned(BETWEEN_PROMPT, {
                     "10": node("LoadImage", image="example.png"), "11": node("LoadImage", image="example.png"),
                     "12": node("ImageBatch", image1=["10", 0], image2=["11", 0]),
                     "13": node("LTX23Keyframe", images=["12", 0], at_frames="0, 60")}, "13")),
        Workflow("two_stage", "The official two stages: half size first, upscaled, then refined with the distilled "
                 "LoRA.", with_prompt(recipe="two_stage", width=1536, height=1024), **both),
        Workflow("two_stage_apart", "The same two stages as separate nodes, with the same result: change what is "
                 "between them.", stages_apart(), **both),
        Workflow("hq", "The official HQ recipe: res_2s, 1920x1088.", with_prompt(
            recipe="hq", width=1920, height=1088), **both),
        Workflow("distilled", "8 steps at half size and 3 at full size. With a distilled checkpoint no LoRA is needed.",
                 with_prompt(recipe="distilled", width=1536, height=1024), **both),
        Workflow("ic_lora", "A control video (depth, pose, edges) leads.", ic_lora(),
                 **both),
        Workflow("audio_to_video", "A picture for your sound: speech, music. The file keeps the original sound.",
                 conditioned(SPEECH_PROMPT, {"10": node("LoadAudio", audio="example.wav"),
                                             "11": node("LTX23SourceAudio", audio=["10", 0])}, "11")),
        Workflow("video_to_audio", "Sound for your video.", conditioned(FOLEY_PROMPT, clip("LTX23SourceVideo"), "11")),
        Workflow("extend", "Your clip goes on, with its sound. *frames* of Sampler is the length of the whole.",
                 conditioned(EXTEND_PROMPT, clip("LTX23Extend"), "11", frames=241)),
        Workflow("retake", "A stretch of your clip is made anew, from *start* to *end* in seconds.",
                 conditioned(RETAKE_PROMPT, clip("LTX23Retake", start=1.0, end=3.0), "11")),
        Workflow("inpaint", "What a mask marks in your clip is made anew.", conditioned(
            RETAKE_PROMPT, {"12": node("LoadImageMask", image="example.png", channel="red")}
            | clip("LTX23Inpaint", mask=["12", 0]), "11")),
        Workflow("text_to_audio", "Sound without a picture; *frames* / *fps* are the seconds.", text_to_audio()),
        Workflow("long_video", "Seventeen seconds in four windows, a prompt for each. An interrupted run goes on.",
                 long_video()),
        Workflow("enhance_prompt", "Gemma writes your short prompt out; its text stands in the node and can be kept.",
                 enhance_prompt()),
    ]
