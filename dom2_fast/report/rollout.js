// Plays the recorded episodes side by side on canvases. Data: the JSON in #rollout-data.
"use strict";
(() => {
  const holder = document.getElementById("rollout-data");
  if (!holder) return;
  const scenes = JSON.parse(holder.textContent);
  const button = document.getElementById("rollout-play");
  const slider = document.getElementById("rollout-step");
  const readout = document.getElementById("rollout-readout");
  const last = Math.max(...scenes.map((scene) => scene.states.length - 1));
  const STEPS_PER_SECOND = Math.max(6, last / 50); // a long episode takes no more than 50 s
  const HOLD = 1.2; // seconds to rest at the end before starting again
  const TRAIL = 7;
  let time = 0;
  let playing = false;
  let before = null;

  const color = (name) =>
    getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Positions between two recorded steps lie on the straight line between them.
  function position(scene, entity, at) {
    const end = scene.states.length - 1;
    const low = Math.min(Math.floor(at), end);
    const high = Math.min(low + 1, end);
    const part = Math.min(at, end) - low;
    const [a, b] = [scene.states[low][entity], scene.states[high][entity]];
    return [a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part];
  }

  function draw(scene, canvas, at, wholeTrail) {
    const ratio = window.devicePixelRatio || 1;
    const side = canvas.clientWidth || 320;
    if (canvas.width !== Math.round(side * ratio)) {
      canvas.width = canvas.height = Math.round(side * ratio);
    }
    const pen = canvas.getContext("2d");
    const scale = side / (2 * scene.reach);
    const place = ([x, y]) => [side / 2 + x * scale, side / 2 - y * scale];
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, side, side);

    pen.lineWidth = 1;
    pen.strokeStyle = color("--grid");
    const [left, top] = place([-1, 1]);
    pen.strokeRect(left, top, 2 * scale, 2 * scale);

    pen.strokeStyle = color("--ink");
    pen.lineWidth = 3;
    for (const [from, to] of scene.links) {
      pen.beginPath();
      pen.moveTo(...place(position(scene, from, at)));
      pen.lineTo(...place(position(scene, to, at)));
      pen.stroke();
    }

    scene.entities.forEach((entity, index) => {
      const ink = color(entity.color);
      const [x, y] = place(position(scene, index, at));
      const radius = Math.max(entity.size * scale, 2.5);
      if (entity.moves) {
        const from = wholeTrail ? 0 : Math.max(0, at - TRAIL);
        const points = [];
        for (let step = Math.ceil(from); step < at; step++) points.push(step);
        points.push(at);
        let [px, py] = place(position(scene, index, from));
        for (const step of points) {
          const [qx, qy] = place(position(scene, index, step));
          pen.globalAlpha = wholeTrail ? 0.5 : 0.1 + 0.6 * (1 - (at - step) / TRAIL);
          pen.strokeStyle = ink;
          pen.lineWidth = 2.5;
          pen.beginPath();
          pen.moveTo(px, py);
          pen.lineTo(qx, qy);
          pen.stroke();
          [px, py] = [qx, qy];
        }
      }
      pen.beginPath();
      pen.arc(x, y, radius, 0, 2 * Math.PI);
      pen.fillStyle = ink;
      pen.globalAlpha = entity.moves ? 0.3 : entity.solid ? 0.55 : 0.25;
      pen.fill();
      pen.globalAlpha = 1;
      pen.strokeStyle = ink;
      pen.lineWidth = entity.moves ? 2 : 1.5;
      pen.setLineDash(entity.moves || entity.solid ? [] : [3, 3]);
      pen.stroke();
      pen.setLineDash([]);
      if (entity.label) {
        pen.fillStyle = color("--ink");
        pen.font = `600 ${Math.max(10, Math.min(14, radius * 0.9))}px system-ui, sans-serif`;
        pen.textAlign = "center";
        pen.textBaseline = "middle";
        const outside = radius < 11;
        pen.fillText(entity.label, x + (outside ? radius + 7 : 0), y + 0.5);
      }
    });
  }

  function drawAll(wholeTrail = false) {
    scenes.forEach((scene, index) => {
      draw(scene, document.getElementById(`scene-${index}`), Math.min(time, last), wholeTrail);
    });
    const step = Math.min(Math.floor(time + 1e-6), last);
    if (Number(slider.value) !== step) slider.value = step;
    readout.textContent = `step ${step} of ${last}`;
  }

  function tick(now) {
    if (!playing) return;
    if (before !== null) time += ((now - before) / 1000) * STEPS_PER_SECOND;
    before = now;
    if (time > last + HOLD * STEPS_PER_SECOND) time = 0;
    drawAll();
    requestAnimationFrame(tick);
  }

  function play(on) {
    playing = on;
    before = null;
    button.textContent = on ? "Pause" : "Play";
    if (on) requestAnimationFrame(tick);
  }

  slider.max = last;
  button.addEventListener("click", () => {
    if (!playing && time >= last) time = 0;
    play(!playing);
  });
  slider.addEventListener("input", () => {
    play(false);
    time = Number(slider.value);
    drawAll();
  });
  window.addEventListener("resize", () => drawAll());
  window.addEventListener("beforeprint", () => {
    play(false);
    time = last;
    drawAll(true);
  });
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  drawAll();
  play(!still);
})();
