"use strict";
// An <audio loop> leaves a gap at the wrap. Here samples go into a buffer that repeats to the
// sample, in a context of the sound's own rate, so that nothing resamples each repetition.
const contexts = new Map();
let playing = null;

function samplesOf(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  let rate = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const name = text.slice(at, at + 4), size = view.getUint32(at + 4, true);
    if (name === "fmt ") rate = view.getUint32(at + 12, true);
    if (name === "data") {
      const samples = new Float32Array(size / 2);
      for (let i = 0; i < samples.length; i++) samples[i] = view.getInt16(at + 8 + 2 * i, true) / 32768;
      return { rate, samples };
    }
    at += 8 + size + (size % 2);
  }
}

function stop() {
  if (!playing) return;
  const { source, button, head } = playing;
  playing = null;
  source.onended = null;
  source.stop();
  head.style.opacity = 0;
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", "Play " + button.dataset.title);
}

function move() {
  if (!playing) return;
  const { context, start, source, head } = playing;
  const share = (context.currentTime - start) / source.buffer.duration;
  head.style.left = 100 * (source.loop ? share % 1 : Math.min(share, 1)) + "%";
  requestAnimationFrame(move);
}

function play(button) {
  const { rate, samples } = samplesOf(button.dataset.sound);
  if (!contexts.has(rate)) contexts.set(rate, new AudioContext({ sampleRate: rate }));
  const context = contexts.get(rate);
  context.resume();
  const buffer = context.createBuffer(1, samples.length, rate);
  buffer.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = buffer;
  source.loop = button.dataset.loop === "1";
  source.onended = stop;
  source.connect(context.destination);
  source.start();
  const head = button.parentElement.querySelector(".wave i");
  head.style.opacity = 1;
  playing = { source, button, head, context, start: context.currentTime };
  button.setAttribute("aria-pressed", "true");
  button.setAttribute("aria-label", "Stop " + button.dataset.title);
  move();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-sound]");
  if (!button) return;
  const again = playing && playing.button === button;
  stop();
  if (!again) play(button);
});
