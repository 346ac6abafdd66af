// Golden inputs through a session, and its outputs against the recorded ones: the bars of edgekit verify, as page.json has them.

const TYPES = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, int16: Int16Array, int32: Int32Array, int64: BigInt64Array,
  uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, uint64: BigUint64Array, bool: Uint8Array,
};
const STEPS = 127; // of a signed 8-bit number on each side of zero

/** The arrays of golden.bin: name -> {dtype, shape, data}. */
export function arrays(described, buffer) {
  return Object.fromEntries(
    Object.entries(described).map(([name, { dtype, shape, offset }]) => {
      const count = shape.reduce((product, size) => product * size, 1);
      return [name, { dtype, shape, data: new TYPES[dtype](buffer, offset, count) }];
    }),
  );
}

/** A tensor of ``data``, of the runtime's own. */
export function tensor(dtype, data, shape) {
  return new ort.Tensor(dtype, data, shape);
}

/** Runs every golden sample in batches of ``batch``; the last is filled up with its first sample. Gives outputs and the time. */
export async function run(session, page, golden, advance) {
  const outputs = Object.fromEntries(page.outputs.map(({ name }) => [name, []]));
  let milliseconds = 0;
  for (let first = 0; first < page.samples; first += page.batch) {
    const real = Math.min(page.batch, page.samples - first);
    const feed = Object.fromEntries(page.inputs.map(({ name }) => [name, batchOf(golden[`input.${name}`], first, real, page.batch)]));
    const begin = performance.now();
    const found = await session.run(feed);
    milliseconds += performance.now() - begin;
    for (const { name } of page.outputs) {
      const size = found[name].size / page.batch;
      outputs[name].push(found[name].data.slice(0, real * size));
    }
    await advance(first + real);
  }
  return { outputs, milliseconds: milliseconds / Math.ceil(page.samples / page.batch) };
}

function batchOf({ dtype, shape, data }, first, real, batch) {
  const size = data.length / shape[0];
  const filled = new TYPES[dtype](batch * size);
  for (let sample = 0; sample < batch; sample++) {
    const source = first + (sample < real ? sample : 0);
    filled.set(data.subarray(source * size, (source + 1) * size), sample * size);
  }
  return tensor(dtype, filled, [batch, ...shape.slice(1)]);
}

/** One output of all samples against its reference -> {passed, found, allowed} for each thing that is asked of it. */
export function judged(pieces, bar, golden, sizes) {
  const reference = golden[`float64.${bar.name}`];
  const output = joined(pieces);
  if (output.length !== reference.data.length) return [check(bar.name, `${output.length} numbers`, `${reference.data.length}`, false)];
  const checks = [elements(output, reference, bar, golden)];
  if (bar.top1 !== null) checks.push(top1(output, reference, bar, golden));
  const first = (sizes[0] * output.length) / reference.shape[0];
  if (bar.snr_db !== null) checks.push(noise(output.subarray(0, first), reference.data, bar));
  if (bar.steps !== null) checks.push(steps(output.subarray(0, first), golden[`own.${bar.name}`].data, bar));
  return checks;
}

function check(name, found, allowed, passed) {
  return { name, found, allowed, passed };
}

function joined(pieces) {
  const all = new Float64Array(pieces.reduce((count, piece) => count + piece.length, 0));
  let place = 0;
  for (const piece of pieces) for (const value of piece) all[place++] = Number(value);
  return all;
}

/** |y - r|; infinite values agree where both have the same, and NaN never does. */
function apart(found, expected) {
  return found === expected ? 0 : Math.abs(found - expected);
}

function elements(output, reference, bar, golden) {
  const limit = reader(golden[`limit.${bar.name}`], reference.shape);
  const count = (bar.held * output.length) / reference.shape[0];
  let worst = { share: 0, apart: 0, limit: limit(0) };
  for (let i = 0; i < count; i++) {
    const distance = apart(output[i], reference.data[i]);
    const share = distance === 0 ? 0 : distance / limit(i);
    if (!(share <= worst.share)) worst = { share: Number.isNaN(share) ? Infinity : share, apart: distance, limit: limit(i) };
  }
  return check(`${bar.name}: worst |y - r|`, short(worst.apart), short(worst.limit), worst.share <= 1);
}

/** The share of samples whose largest output is where the reference has its largest, or at a tie with it. */
function top1(output, reference, bar, golden) {
  const blur = reader(golden[`blur.${bar.name}`], reference.shape);
  const classes = reference.shape[1];
  let agreeing = 0;
  for (let sample = 0; sample < bar.held; sample++) {
    const begin = sample * classes;
    const best = begin + largest(reference.data.subarray(begin, begin + classes));
    const chosen = begin + largest(output.subarray(begin, begin + classes));
    const behind = reference.data[best] - reference.data[chosen];
    if (best === chosen || behind <= blur(best) + blur(chosen)) agreeing++;
  }
  const asked = Math.ceil(bar.top1 * bar.held - 1e-9);
  return check(`${bar.name}: same top-1`, `${agreeing} of ${bar.held}`, `at least ${asked}`, agreeing / bar.held >= bar.top1);
}

function noise(output, reference, bar) {
  let signal = 0;
  let error = 0;
  output.forEach((value, i) => {
    signal += reference[i] ** 2;
    error += apart(value, reference[i]) ** 2;
  });
  const snr = 10 * Math.log10(signal / error);
  return check(`${bar.name}: SNR`, `${snr.toFixed(1)} dB`, `at least ${bar.snr_db.toFixed(1)} dB`, error === 0 || snr >= bar.snr_db);
}

function steps(output, own, bar) {
  let distance = 0;
  let scale = 0;
  output.forEach((value, i) => {
    const between = apart(value, Number(own[i]));
    distance = Number.isNaN(between) ? Infinity : Math.max(distance, between);
    if (Number.isFinite(Number(own[i]))) scale = Math.max(scale, Math.abs(Number(own[i])));
  });
  const most = distance === 0 ? 0 : (STEPS * distance) / scale;
  return check(`${bar.name}: steps from its own recorded output`, most.toFixed(2), bar.steps.toFixed(2), most <= bar.steps);
}

/** Reads an array as if it were broadcast to ``shape``: by the place in an array of that shape. */
function reader(array, shape) {
  const places = array.shape.length;
  const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
  const own = array.shape.map((size, axis) => (size === 1 ? 0 : array.shape.slice(axis + 1).reduce((product, each) => product * each, 1)));
  if (!places) return () => array.data[0];
  return (place) => {
    let found = 0;
    for (let axis = 0; axis < places; axis++) found += (Math.trunc(place / strides[axis]) % shape[axis]) * own[axis];
    return array.data[found];
  };
}

export function largest(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

function short(value) {
  return Number.isFinite(value) ? value.toExponential(1) : "not finite";
}
