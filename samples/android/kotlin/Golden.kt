// Replays a bundle's golden vectors: the check that an app computes what the bundle promises.
// Run it once per device type in an instrumented test, or on a desktop JVM with `main`.

package edgeq.sample

import org.json.JSONArray
import org.json.JSONObject
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipFile

/** One comparison: `stage` is `token_ids` or the name of an output. */
data class GoldenResult(val case: String, val stage: String, val error: Double, val tolerance: Double) {
    val passed: Boolean get() = error <= tolerance
}

/**
 * Run every golden case of the model's variant.
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
    val results = mutableListOf<GoldenResult>()
    val recorded = case.getJSONArray("token_ids").getJSONArray(0).longs()
    val sample = case.getJSONArray("samples").opt(0)
    if (tokenize != null && sample is String) {
        // Token ids are exact or wrong: one different id is a different text.
        val differ = if (tokenize(sample).contentEquals(recorded)) 0.0 else 1.0
        results += GoldenResult(id, "token_ids", differ, 0.0)
    }
    val arrays = readNpz(bundle.file(entry.getString("path")))
    val types = arrays["inputs/token_type_ids"]?.let { values -> LongArray(recorded.size) { values[it].toLong() } }
    val outputs = model.run(recorded, types)
    val variant = model.variant.getString("id")
    for (tolerance in entry.getJSONArray("tolerances").objects().filter { it.getString("variant") == variant }) {
        require(tolerance.getString("metric") == "max_abs") { "tolerance on ${tolerance.getString("metric")}" }
        val name = tolerance.getString("output")
        val expected = arrays.getValue("outputs/$variant/$name")
        val found = outputs.getValue(name)
        results += GoldenResult(id, name, largestDifference(expected, found), tolerance.getDouble("threshold"))
    }
    return results
}

/** Over the recorded length: a static variant returns per-token outputs for its padding, too. */
private fun largestDifference(expected: DoubleArray, found: FloatArray): Double {
    require(found.size >= expected.size) { "${found.size} values, expected ${expected.size}" }
    // Not maxOf: a NaN must fail, and NaN compares as false.
    return expected.indices.fold(0.0) { worst, i ->
        val error = Math.abs(expected[i] - found[i])
        if (error.isNaN() || error > worst) error else worst
    }
}

/** Arrays of an `.npz`, flattened to doubles: stored `.npy` 1.0, little-endian float32, int64 or int32. */
fun readNpz(file: File): Map<String, DoubleArray> = ZipFile(file).use { zip ->
    zip.entries().asSequence().associate { entry ->
        val bytes = zip.getInputStream(entry).use { it.readBytes() }
        entry.name.removeSuffix(".npy") to readNpy(ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN))
    }
}

private fun readNpy(buffer: ByteBuffer): DoubleArray {
    require(buffer.get(6).toInt() == 1) { "npy version ${buffer.get(6)}" }
    val headerLength = buffer.getShort(8).toInt() and 0xffff
    val header = String(buffer.array(), 10, headerLength, Charsets.US_ASCII)
    buffer.position(10 + headerLength)
    return when {
        "'<f4'" in header -> DoubleArray(buffer.remaining() / 4) { buffer.getFloat().toDouble() }
        "'<i8'" in header -> DoubleArray(buffer.remaining() / 8) { buffer.getLong().toDouble() }
        "'<i4'" in header -> DoubleArray(buffer.remaining() / 4) { buffer.getInt().toDouble() }
        else -> throw BundleException("array type in $header")
    }
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
                println("${variant.getString("id")} ${result.case} ${result.stage}: ${result.error} <= ${result.tolerance} $verdict")
            }
        }
    }
    if (failed > 0) kotlin.system.exitProcess(1)
}
