# Installs the build of which this is a test, builds a project that uses the static library from there, runs its program.
set(prefix "${BUILD}/package/prefix")
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}: ${status}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

file(REMOVE_RECURSE "${BUILD}/package")
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${prefix} --component static)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${BUILD}/package/build -G ${GENERATOR} -DCMAKE_MAKE_PROGRAM=${MAKE}
    -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${prefix} -DARTIFACT_BUILDER=${SOURCE}/..
    -DCMAKE_CXX_FLAGS=${FLAGS} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${BUILD}/package/build)
run(${BUILD}/package/build/demo)
run(ldd ${BUILD}/package/build/demo)
if(output MATCHES "libtessera")
  message(FATAL_ERROR "the program needs the shared library:\n${output}")
endif()
