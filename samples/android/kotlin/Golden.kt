// Replays a bundle's golden vectors: the check that an app computes what the bundle promises.
// Run it once per device type in an instrumented test, or on a desktop JVM with `main`.

package edgeq.sample

import org.json.JSONArray
import org.json.JSONObject
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipFile

/** One comparison: `stage` is `token_ids` or the name of an output, `metric` what `bound` bounds. */
data class GoldenResult(
    val case: String, val stage: String, val metric: String, val value: Double, val bound: Double, val isLowest: Boolean
) {
    // Written so that a NaN fails.
    val passed: Boolean get() = if (isLowest) value >= bound else value <= bound
}

/**
 * Run every golden case of the model's variant, a text at a time: a text alone gives what it gives in a padded batch.
 *
 * @param tokenize your tokenizer, text to token ids with special tokens; null starts from the recorded ids
 */
fun replayGolden(bundle: EdgeqBundle, model: EdgeqModel, tokenize: ((String) -> LongArray)? = null): List<GoldenResult> {
    val described = JSONObject(bundle.file("golden/golden.json").readText()).getJSONArray("cases").objects()
    val byId = described.associateBy { it.getString("id") }
    return bundle.manifest.getJSONArray("golden").objects().flatMap { entry ->
        replayCase(bundle, model, entry, byId.getValue(entry.getString("id")), tokenize)
    }
}

private fun replayCase(
    bundle: EdgeqBundle,
    model: EdgeqModel,
    entry: JSONObject,
    case: JSONObject,
    tokenize: ((String) -> LongArray)?
): List<GoldenResult> {
    val id = entry.getString("id")
    val variant = model.variant.getString("id")
    // A case that is longer than a static variant takes holds no outputs of it.
    if (variant !in case.getJSONArray("variants").strings()) return emptyList()
    val arrays = readNpz(bundle.file(entry.getString("path")))
    val recorded = case.getJSONArray("token_ids").let { rows -> (0 until rows.length()).map { rows.getJSONArray(it).longs() } }
    val results = if (tokenize == null) emptyList() else tokenIds(id, case, recorded, tokenize)
    val outputs = recorded.mapIndexed { row, ids -> model.run(ids, arrays["inputs/token_type_ids"]?.row(row, ids.size)) }
    return results + entry.getJSONArray("tolerances").objects().filter { it.getString("variant") == variant }.map { tolerance ->
        val name = tolerance.getString("output")
        val expected = arrays.getValue("outputs/$variant/$name")
        val positions = arrays["positions"]
        val pairs = recorded.indices.flatMap { vectors(expected, positions, it, recorded[it].size, outputs[it].getValue(name)) }
        val metric = tolerance.getString("metric")
        val value = when (metric) {
            "max_abs" -> largest(pairs) { (a, b) -> a.indices.fold(0.0) { most, i -> worse(most, Math.abs(a[i] - b[i])) } }
            "cosine_min" -> 1 - largest(pairs) { (a, b) -> 1 - cosine(a, b) }
            else -> throw BundleException("tolerance on $metric")
        }
        GoldenResult(id, name, metric, value, tolerance.getDouble("threshold"), tolerance.getString("op") == ">=")
    }
}

/** Token ids are exact or wrong: one different id is a different text. Texts longer than the model takes are cut first. */
private fun tokenIds(id: String, case: JSONObject, recorded: List<LongArray>, tokenize: (String) -> LongArray): List<GoldenResult> =
    recorded.indices.mapNotNull { row ->
        val sample = case.getJSONArray("samples").opt(row) as? String ?: return@mapNotNull null
        val differ = if (tokenize(sample).contentEquals(recorded[row])) 0.0 else 1.0
        GoldenResult(id, "token_ids", "different", differ, 0.0, false)
    }

/** What was recorded of one text beside what was found: one vector, or one for each recorded token that is not padding. */
private fun vectors(
    expected: NpyArray, positions: NpyArray?, row: Int, tokens: Int, found: FloatArray
): List<Pair<DoubleArray, DoubleArray>> {
    val values = DoubleArray(found.size) { found[it].toDouble() }
    if (expected.shape.size < 3) {
        // Scores of tokens are recorded for the padding too; a text alone has none.
        val one = expected.row(row)
        val size = if (one.size == values.size) one.size else tokens
        return listOf(Pair(one.copyOf(size), values.copyOf(size)))
    }
    val channels = expected.shape[2]
    val one = expected.row(row)
    return (0 until expected.shape[1]).mapNotNull { index ->
        val token = positions?.values?.get(index)?.toInt() ?: index
        if (token >= tokens) null
        else Pair(one.copyOfRange(index * channels, (index + 1) * channels), values.copyOfRange(token * channels, (token + 1) * channels))
    }
}

private fun largest(pairs: List<Pair<DoubleArray, DoubleArray>>, measure: (Pair<DoubleArray, DoubleArray>) -> Double): Double {
    if (pairs.isEmpty()) throw BundleException("a golden case records nothing to compare")
    return pairs.fold(0.0) { most, pair -> worse(most, measure(pair)) }
}

/** The larger, or NaN where one is: a NaN must fail, and compares as false. */
private fun worse(a: Double, b: Double): Double = if (a.isNaN() || b.isNaN()) Double.NaN else Math.max(a, b)

private fun cosine(a: DoubleArray, b: DoubleArray): Double {
    var dot = 0.0
    var first = 0.0
    var second = 0.0
    for (i in a.indices) {
        dot += a[i] * b[i]
        first += a[i] * a[i]
        second += b[i] * b[i]
    }
    return if (first == 0.0 && second == 0.0) 1.0 else dot / Math.sqrt(first * second)
}

/** An array of an `.npz`, flattened. */
class NpyArray(val shape: List<Int>, val values: DoubleArray) {

    /** One sample of a batch. */
    fun row(index: Int): DoubleArray {
        val size = values.size / shape[0]
        return values.copyOfRange(index * size, (index + 1) * size)
    }

    /** Its first values, as token ids or types. */
    fun row(index: Int, count: Int): LongArray = row(index).let { values -> LongArray(count) { values[it].toLong() } }
}

/** Arrays of an `.npz`: stored `.npy` 1.0, little-endian float32, int64 or int32. */
fun readNpz(file: File): Map<String, NpyArray> = ZipFile(file).use { zip ->
    zip.entries().asSequence().associate { entry ->
        val bytes = zip.getInputStream(entry).use { it.readBytes() }
        entry.name.removeSuffix(".npy") to readNpy(ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN))
    }
}

private val SHAPE = Regex("'shape': \\(([0-9, ]*)\\)")

private fun readNpy(buffer: ByteBuffer): NpyArray {
    require(buffer.get(6).toInt() == 1) { "npy version ${buffer.get(6)}" }
    val headerLength = buffer.getShort(8).toInt() and 0xffff
    val header = String(buffer.array(), 10, headerLength, Charsets.US_ASCII)
    buffer.position(10 + headerLength)
    val values = when {
        "'<f4'" in header -> DoubleArray(buffer.remaining() / 4) { buffer.getFloat().toDouble() }
        "'<i8'" in header -> DoubleArray(buffer.remaining() / 8) { buffer.getLong().toDouble() }
        "'<i4'" in header -> DoubleArray(buffer.remaining() / 4) { buffer.getInt().toDouble() }
        else -> throw BundleException("array type in $header")
    }
    val shape = SHAPE.find(header) ?: throw BundleException("no shape in $header")
    return NpyArray(shape.groupValues[1].split(',').map { it.trim() }.filter { it.isNotEmpty() }.map { it.toInt() }, values)
}

private fun JSONArray.longs() = LongArray(length()) { getLong(it) }

/** Desktop check, every ONNX Runtime variant on the CPU provider: exit status 1 when a case fails. */
fun main(arguments: Array<String>) {
    val bundle = EdgeqBundle.open(File(arguments[0]))
    var failed = 0
    for (variant in bundle.variants.filter { it.getString("runtime") == "onnxruntime" }) {
        EdgeqModel(bundle, variant, accelerate = false).use { model ->
            for (result in replayGolden(bundle, model)) {
                if (!result.passed) failed++
                val verdict = if (result.passed) "passed" else "FAILED"
                val op = if (result.isLowest) ">=" else "<="
                println("${variant.getString("id")} ${result.case} ${result.stage} ${result.metric}: ${result.value} $op ${result.bound} $verdict")
            }
        }
    }
    if (failed > 0) kotlin.system.exitProcess(1)
}
