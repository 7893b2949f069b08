// The film strip of a clip: its length and pictures along it, loaded once for each address.
const SHOTS = 8;
const SIDE = 96; // pixels of a picture of the strip
const MOST = 8; // clips that are kept
const WAIT_MS = 8000;
const films = new Map();

// {seconds, picture}: undefined until they are known, seconds 0 where this browser cannot play the file.
export function filmOf(address) {
  if (!films.has(address)) {
    if (films.size >= MOST) films.delete(films.keys().next().value);
    const film = { seconds: undefined, picture: undefined };
    films.set(address, film);
    load(address, film).catch(() => {
      film.seconds ??= 0;
    });
  }
  return films.get(address);
}

function happens(video, name) {
  return new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, { once: true });
    video.addEventListener("error", reject, { once: true });
    setTimeout(reject, WAIT_MS);
  });
}

async function load(address, film) {
  const video = document.createElement("video");
  Object.assign(video, { muted: true, preload: "auto", src: address });
  await happens(video, "loadedmetadata");
  film.seconds = Number.isFinite(video.duration) ? video.duration : 0;
  const canvas = Object.assign(document.createElement("canvas"), { width: SHOTS * SIDE, height: SIDE });
  const pen = canvas.getContext("2d");
  const side = Math.min(video.videoWidth, video.videoHeight);
  const [x, y] = [(video.videoWidth - side) / 2, (video.videoHeight - side) / 2];
  for (let index = 0; side && index < SHOTS; index += 1) {
    const seeked = happens(video, "seeked");
    video.currentTime = ((index + 0.5) / SHOTS) * film.seconds;
    await seeked;
    pen.drawImage(video, x, y, side, side, index * SIDE, 0, SIDE, SIDE);
  }
  if (side) film.picture = canvas.toDataURL("image/jpeg", 0.8);
  video.removeAttribute("src");
  video.load();
}
