// Opens an edgeq bundle on Android: verifies it, picks a variant, runs it. Copy it into your app.
//
// Needs com.microsoft.onnxruntime:onnxruntime-android; org.json is part of Android. Nothing here is
// Android's alone, so the same file runs on a desktop JVM with com.microsoft.onnxruntime:onnxruntime.

package edgeq.sample

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.providers.NNAPIFlags
import org.json.JSONArray
import org.json.JSONObject
import java.io.File
import java.io.IOException
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import java.security.MessageDigest
import java.util.EnumSet

const val NNAPI = "NnapiExecutionProvider"

class BundleException(message: String) : IOException(message)

/** A verified bundle; `open` is the only way to one. */
class EdgeqBundle private constructor(val folder: File, val manifest: JSONObject) {

    val variants: List<JSONObject> get() = manifest.getJSONArray("variants").objects()

    /** What the manifest says of the tokenizer, null where the model takes no text. Format 1 calls it `tokenizer`. */
    val text: JSONObject? get() = manifest.optJSONObject("processor")?.optJSONObject("text") ?: manifest.optJSONObject("tokenizer")

    /** The model of a variant of one graph, null of several, which this sample does not run. Format 1 has no `models`. */
    fun modelPath(variant: JSONObject): String? = (variant.optJSONObject("models") ?: variant).optString("model").ifEmpty { null }

    /**
     * The first variant this device meets, in the bundle's order of preference.
     *
     * @param apiLevel Build.VERSION.SDK_INT
     * @param abis Build.SUPPORTED_ABIS
     * @param provider only variants of this execution provider, as in `NNAPI`; null takes any
     */
    fun choose(apiLevel: Int, abis: List<String>, provider: String? = null): JSONObject =
        variants.firstOrNull { variant ->
            val needs = variant.optJSONObject("requirements") ?: JSONObject()
            val wanted = needs.optJSONArray("abi")?.strings() ?: emptyList()
            variant.getString("runtime") == "onnxruntime" && modelPath(variant) != null &&
                (provider == null || variant.getString("execution_provider") == provider) &&
                needs.optInt("min_android_api", 0) <= apiLevel &&
                (wanted.isEmpty() || wanted.any { it in abis })
        } ?: throw BundleException(
            "no variant of ${manifest.getString("name")} runs at API level $apiLevel on ${abis.joinToString()}: " +
                variants.joinToString("; ") { needed(it) }
        )

    /** `cpu-int8 needs API level 24 and arm64-v8a`: an emulator of another ABI is not told about API levels alone. */
    private fun needed(variant: JSONObject): String {
        val needs = variant.optJSONObject("requirements") ?: JSONObject()
        val wanted = needs.optJSONArray("abi")?.strings()?.joinToString(" or ") ?: "any ABI"
        return "${variant.getString("id")} needs API level ${needs.optInt("min_android_api", 0)} and $wanted"
    }

    fun file(path: String): File = File(folder, path)

    /** What goes before a text, by role; empty where the model wants nothing there. */
    val prompts: Map<String, String> = text?.optJSONObject("prompts")
        ?.let { found -> found.keys().asSequence().map { "$it" }.associateWith { found.getString(it) } } ?: emptyMap()

    /**
     * The text to tokenize: with the prompt of its role, or with the model's default one, if it has one. Without it a model
     * that was trained with prompts gives other vectors.
     *
     * @param role `query`, `document` or another key of `prompts`; a model without a prompt for a query or a document uses
     *     none, and any other name it does not know is an error
     */
    fun prompted(text: String, role: String? = null): String {
        val default = this.text?.optString("default_prompt").orEmpty().ifEmpty { null }
        val name = role ?: default ?: return text
        prompts[name]?.let { return it + text }
        val other = name == "document" && ("passage" in prompts || "corpus" in prompts)
        if (name !in listOf("query", "document") || other) throw BundleException("no prompt for $name")
        return text
    }

    companion object {
        /**
         * Verify every file, then trust the folder.
         *
         * @param manifestSha256 of `edgeq.json` when your app was built; pin it for bundles that are downloaded
         */
        fun open(folder: File, manifestSha256: String? = null): EdgeqBundle {
            val bytes = File(folder, "edgeq.json").readBytes()
            if (manifestSha256 != null && sha256(bytes) != manifestSha256) {
                throw BundleException("edgeq.json is not the one this app was built for")
            }
            val manifest = JSONObject(String(bytes, Charsets.UTF_8))
            val format = manifest.getJSONObject("format")
            if (format.getString("name") != "edgeq" || format.getString("version").substringBefore('.') !in listOf("1", "2")) {
                throw BundleException("format ${format.getString("version")} is not 1.x or 2.x")
            }
            if (manifest.getString("status") != "passed") throw BundleException("the bundle failed its quality gate")
            verify(folder, manifest.getJSONObject("integrity").getJSONArray("files").objects())
            return EdgeqBundle(folder, manifest)
        }

        private fun verify(folder: File, entries: List<JSONObject>) {
            val root = folder.canonicalFile
            val listed = entries.map { it.getString("path") }.toSet() + setOf("edgeq.json", "SHA256SUMS")
            val found = root.walkTopDown().filter { it.isFile }.map { it.relativeTo(root).invariantSeparatorsPath }
            found.firstOrNull { it !in listed }?.let { throw BundleException("$it is not listed") }
            for (entry in entries) {
                val path = entry.getString("path")
                val file = File(root, path)
                // A link, or a path with `..`, is not where it says it is.
                if (file.canonicalFile != file) throw BundleException("$path leaves the bundle")
                if (!file.isFile || file.length() != entry.getLong("size")) throw BundleException("$path has another size")
                if (sha256(file) != entry.getString("sha256")) throw BundleException("$path has another SHA-256")
            }
        }

        private fun sha256(bytes: ByteArray): String = hex(MessageDigest.getInstance("SHA-256").digest(bytes))

        private fun sha256(file: File): String {
            val digest = MessageDigest.getInstance("SHA-256")
            val buffer = ByteArray(1 shl 16)
            file.inputStream().use { stream ->
                while (true) {
                    val count = stream.read(buffer)
                    if (count < 0) break
                    digest.update(buffer, 0, count)
                }
            }
            return hex(digest.digest())
        }

        private fun hex(bytes: ByteArray) = bytes.joinToString("") { "%02x".format(it) }
    }
}

/**
 * One loaded variant. Sessions may be shared between threads; create one and keep it.
 *
 * @param accelerate register the variant's execution provider; false runs any graph on the CPU, as in desktop tests
 * @param strict fail where a node would fall back to the CPU: for tests on devices, not for users
 */
class EdgeqModel(bundle: EdgeqBundle, val variant: JSONObject, accelerate: Boolean = true, strict: Boolean = false) : AutoCloseable {

    private val env = OrtEnvironment.getEnvironment()
    private val text = bundle.text ?: throw BundleException("the model takes no text")
    private val padId = text.getLong("pad_id")
    private val inputs = variant.getJSONArray("inputs").objects()
    private val outputs = variant.getJSONArray("outputs").objects()

    /** Tokens of a static variant, null where the length is free. */
    val staticLength: Int? = inputs.first().getJSONArray("shape").get(1) as? Int

    /** Most tokens of a text, special tokens included: truncate to it while tokenizing. */
    val maxLength: Int = minOf(staticLength ?: Int.MAX_VALUE, text.getInt("max_length"))

    // By path, not by bytes: ONNX Runtime maps the file, and the heap holds no second copy.
    private val path = bundle.modelPath(variant) ?: throw BundleException("${variant.getString("id")} is several graphs")
    private val session = env.createSession(bundle.file(path).path, options(accelerate, strict))

    private fun options(accelerate: Boolean, strict: Boolean) = OrtSession.SessionOptions().apply {
        val needs = variant.optJSONObject("requirements") ?: JSONObject()
        needs.optJSONObject("session_options")?.optString("graph_optimization_level")?.let { setOptimizationLevel(level(it)) }
        if (accelerate && variant.getString("execution_provider") == NNAPI) {
            val flags = needs.optJSONArray("nnapi_flags")?.strings() ?: emptyList()
            addNnapi(EnumSet.noneOf(NNAPIFlags::class.java).apply { flags.forEach { add(NNAPIFlags.valueOf(it)) } })
            if (strict) addConfigEntry("session.disable_cpu_ep_fallback", "1")
        }
    }

    /** A bundle was validated at the level it orders; another one computes something else. */
    private fun level(name: String) = when (name) {
        "ORT_DISABLE_ALL" -> OrtSession.SessionOptions.OptLevel.NO_OPT
        "ORT_ENABLE_BASIC" -> OrtSession.SessionOptions.OptLevel.BASIC_OPT
        "ORT_ENABLE_EXTENDED" -> OrtSession.SessionOptions.OptLevel.EXTENDED_OPT
        "ORT_ENABLE_ALL", "" -> OrtSession.SessionOptions.OptLevel.ALL_OPT
        else -> throw BundleException("optimization level $name is not known")
    }

    /**
     * All outputs of one text, flattened, by name.
     *
     * @param tokenIds with special tokens, at most `maxLength`
     * @param tokenTypeIds zeros when left out (a single text)
     */
    fun run(tokenIds: LongArray, tokenTypeIds: LongArray? = null): Map<String, FloatArray> {
        require(tokenIds.size in 1..maxLength) { "${tokenIds.size} tokens; this variant takes 1 to $maxLength" }
        val length = staticLength ?: tokenIds.size
        val feeds = inputs.associate { spec -> spec.getString("name") to tensor(spec, tokenIds, tokenTypeIds, length) }
        try {
            session.run(feeds).use { result ->
                return outputs.associate { spec ->
                    val name = spec.getString("name")
                    val buffer = (result.get(name).get() as OnnxTensor).floatBuffer
                    name to FloatArray(buffer.remaining()).also { buffer.get(it) }
                }
            }
        } finally {
            feeds.values.forEach { it.close() }
        }
    }

    private fun tensor(spec: JSONObject, ids: LongArray, types: LongArray?, length: Int): OnnxTensor {
        val values = when (val role = spec.getString("role")) {
            "token_ids" -> LongArray(length) { if (it < ids.size) ids[it] else padId }
            "attention_mask" -> LongArray(length) { if (it < ids.size) 1L else 0L }
            "token_type_ids" -> LongArray(length) { if (types != null && it < types.size) types[it] else 0L }
            else -> throw BundleException("input role $role is not one of text")
        }
        val shape = longArrayOf(1, length.toLong())
        return when (val dtype = spec.getString("dtype")) {
            "int64" -> OnnxTensor.createTensor(env, LongBuffer.wrap(values), shape)
            "int32" -> OnnxTensor.createTensor(env, IntBuffer.wrap(IntArray(length) { values[it].toInt() }), shape)
            "float32" -> OnnxTensor.createTensor(env, FloatBuffer.wrap(FloatArray(length) { values[it].toFloat() }), shape)
            else -> throw BundleException("input dtype $dtype is not supported")
        }
    }

    override fun close() = session.close()
}

internal fun JSONArray.objects(): List<JSONObject> = (0 until length()).map { getJSONObject(it) }

internal fun JSONArray.strings(): List<String> = (0 until length()).map { getString(it) }
