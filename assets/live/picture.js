// Pictures from files, the clipboard and the camera, as canvases that are not too large.

/** A longer side than this is scaled down: the network sees 64 pixels, and large pictures cost time and memory. */
export const LONGEST = 1024;

/** A canvas with the picture, its longer side at most LONGEST. White shows where it is transparent. */
function drawn(source, width, height) {
  const scale = Math.min(1, LONGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The picture in a file, turned as its EXIF orientation says. Throws an Error with one sentence if there is none. */
export async function fromFile(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {imageOrientation: "from-image"});
  } catch {
    const name = file.name ? `“${file.name}”` : "This";
    throw new Error(`${name} cannot be read as a picture here; JPEG, PNG and WebP files can.`);
  }
  try {
    return drawn(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/** The first picture file of a drop or a paste, else the first file, else null. */
export function firstPicture(transfer) {
  const files = [...(transfer?.files ?? [])];
  return files.find(file => file.type.startsWith("image/")) ?? files[0] ?? null;
}

export const hasCamera = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Starts the camera. Returns {frame, stop}: `frame()` is a canvas with what it sees now. */
export async function startCamera() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 640}, height: {ideal: 480}}});
  } catch (error) {
    throw new Error(error.name === "NotAllowedError" ? "The camera was not allowed; the browser's settings can change that."
      : "There is no camera that this page can use.");
  }
  const video = document.createElement("video");
  video.muted = video.playsInline = true;
  video.srcObject = stream;
  await video.play();
  return {
    frame: () => drawn(video, video.videoWidth, video.videoHeight),
    stop: () => stream.getTracks().forEach(track => track.stop()),
  };
}
